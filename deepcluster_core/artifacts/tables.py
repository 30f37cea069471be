"""Read and write Parquet tables of labels and metrics, which pandas can read for all epochs."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from deepcluster_core.artifacts.file_names import CLUSTERING, INDEX, LABELS, METRICS
from deepcluster_core.artifacts.files import let_others_read
from deepcluster_core.artifacts.manifest import verify
from deepcluster_core.errors import ArtifactError, first_line
from deepcluster_core.shortage import explain_damage

if TYPE_CHECKING:  # the import takes 1.2 s of CPU, and most commands do not need it
    import pandas as pd

STRING_LIMIT_BYTES = (1 << 31) - 1
"""The limit on text in one chunk of Arrow's type `string`."""
STRING_CHUNK_ROWS = 1 << 16
"""Rows per chunk: below the limit even if every path has 4 KiB and each byte is written `\\xff`."""
LABELS_SCHEMA = pa.schema(
    {
        "image_id": pa.int64(),
        "path": pa.string(),
        "cluster": pa.int32(),
        "distance": pa.float32(),
    }
)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file with a checksum on every page."""
    pq.write_table(table, path, write_page_checksum=True)


def write_frame(path: Path, frame: "pd.DataFrame") -> None:
    """Write the columns of a data frame as Parquet, with a checksum on every page."""
    write_table(path, pa.Table.from_pandas(frame, preserve_index=False))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file; verify its page checksums and, in an artifact, the file's digest.

    Raises:
        ArtifactError: the file is missing, is damaged or lacks a column.
    """
    verify(path)
    with _reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        # `read` silently ignores unknown columns.
        wanted = set(columns or ())
        found = set(file.schema_arrow.names)
        absent = sorted(wanted - found)
        if absent:
            raise pa.ArrowInvalid(f"no column {', '.join(absent)}")
        return file.read(columns)


def _reading(path: Path) -> AbstractContextManager[None]:
    """Turn Arrow's errors about damage or wrong column types into ArtifactErrors."""

    def explain(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{path}: cannot be read ({first_line(error)}).\n"
            f"  Fix: run the stage that makes it again, with --force."
        )

    return explain_damage(explain, OSError, pa.ArrowException, ValueError, OverflowError, KeyError)


def read_index(folder: Path, columns: list[str]) -> pa.Table:
    """Read columns of an images artifact's index, sorted by image_id, which must be among them.

    Raises:
        ArtifactError: the index is missing or damaged, or its image_id are not 0 to N - 1, each
            once.
    """
    return _by_image_id(folder / INDEX, columns, stage="index")


def _by_image_id(path: Path, columns: list[str], *, stage: str) -> pa.Table:
    table = read_table(path, columns)
    with _reading(path):
        table = in_one_piece(table)
        # Our tables are written in order, and comparing the ids is cheaper than sorting the rows.
        if not _counts_up(table["image_id"]):
            order = pc.sort_indices(table["image_id"])  # pyright: ignore[reportAttributeAccessIssue]
            table = table.take(order)
        is_complete = _counts_up(table["image_id"])
    if not is_complete:
        raise ArtifactError(
            f"{path}: image_id must hold 0 to {len(table) - 1}, each once.\n"
            f"  Fix: run the stage again: deepcluster stage {stage} … --force"
        )
    return table


def _counts_up(ids: pa.ChunkedArray) -> bool:
    wanted_N = np.arange(len(ids))
    return np.array_equal(ids.to_numpy(), wanted_N)


def in_one_piece(table: pa.Table) -> pa.Table:
    """Return the table with each column in one chunk of any size.

    The offsets of Arrow's `string` have 32 bits, so a chunk holds at most 2 GiB of text; sorting,
    taking and combining larger columns raise an overflow error. Larger columns are converted to
    `large_string`, whose offsets have 64 bits.
    """
    for number, column in enumerate(table.columns):
        is_large = column.nbytes > STRING_LIMIT_BYTES
        if is_large and pa.types.is_string(column.type):
            name = table.column_names[number]
            converted = column.cast(pa.large_string())
            table = table.set_column(number, name, converted)
    return table.combine_chunks()


def as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a text column with the type `string`, in several chunks if necessary."""
    if not pa.types.is_large_string(column.type):
        return column
    chunks: list[pa.Array] = []
    for start in range(0, len(column), STRING_CHUNK_ROWS):
        stop = min(start + STRING_CHUNK_ROWS, len(column))
        # `take` copies the rows. A slice would keep the column's offsets, which may need 64 bits.
        copied = column.take(np.arange(start, stop))
        chunks += copied.cast(pa.string()).chunks
    return pa.chunked_array(chunks, pa.string())


@dataclass(frozen=True)
class Labels:
    """The clusters of all images at one epoch, in the order of image_id."""

    cluster_N: NDArray[np.int32]
    distance_N: NDArray[np.float32]
    """Euclidean distance to the image's own centroid, in the space that was clustered."""
    k: int
    """Requested number of clusters; ids are 0 to k - 1, and some clusters may be empty."""


def write_labels(
    folder: Path,
    *,
    images: Path,
    cluster_N: NDArray[np.int32],
    distance_N: NDArray[np.float32],
    clustering: Mapping[str, NDArray[np.float32]],
) -> None:
    """Write labels.parquet, and beside it the arrays needed to assign new images later.

    Args:
        folder: folder of the artifact.
        images: folder of the images artifact, which provides the paths.
        cluster_N: cluster of each image, in the order of image_id.
        distance_N: distance of each image to its centroid.
        clustering: the arrays of the PCA and the centroids; `centroids` is (K, Q).
    """
    index = read_index(images, ["image_id", "path"])
    paths = as_strings(index["path"])
    columns = [index["image_id"], paths, cluster_N, distance_N]
    table = pa.table(columns, schema=LABELS_SCHEMA)
    write_table(folder / LABELS, table)
    # safetensors stores row-major arrays only.
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, array in clustering.items():
        arrays[name] = np.ascontiguousarray(array)
    save_file(arrays, folder / CLUSTERING)
    let_others_read(folder / CLUSTERING)


def read_labels(folder: Path) -> Labels:
    """Read a label table, sorted by image_id.

    Raises:
        ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once.
    """
    path = folder / LABELS
    names = ["image_id", "cluster", "distance"]
    table = _by_image_id(path, names, stage="cluster")
    # Casting to types without nulls raises an error if a value is missing.
    fields = [LABELS_SCHEMA.field(name).with_nullable(False) for name in names]
    with _reading(path):
        table = table.cast(pa.schema(fields))
    centroids_KQ = read_clustering(folder)["centroids"]
    return Labels(
        cluster_N=table["cluster"].to_numpy(),
        distance_N=table["distance"].to_numpy(),
        k=len(centroids_KQ),
    )


def label_frame(folder: Path) -> "pd.DataFrame":
    """Return image_id, path, cluster and distance of all images, in the order of image_id.

    Raises:
        ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once.
    """
    table = _by_image_id(folder / LABELS, LABELS_SCHEMA.names, stage="cluster")
    return table.to_pandas()


def read_cluster(folder: Path, cluster: int) -> list[dict[str, Any]]:
    """Return image_id, path and distance of a cluster's images, nearest to its centroid first.

    Raises:
        ArtifactError: the table is missing or damaged.
    """
    path = folder / LABELS
    table = read_table(path, LABELS_SCHEMA.names)
    with _reading(path):
        chosen = table.filter(pc.field("cluster") == cluster)
        # Images at equal distances are ordered by image_id, so that the order is reproducible.
        ordered = in_one_piece(chosen).sort_by(
            [("distance", "ascending"), ("image_id", "ascending")]
        )
        return ordered.to_pylist()


def read_clustering(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of the PCA and the centroids that `write_labels` stored.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    path = folder / CLUSTERING
    verify(path)

    def explain(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{path}: cannot be read ({error}).\n"
            f"  Fix: run the cluster stage again: deepcluster stage cluster … --force"
        )

    with explain_damage(explain):
        return load_file(path)


def write_metrics(folder: Path, row: Mapping[str, float | int | str | None]) -> None:
    """Write the metrics of an epoch as one row: int64, float64 or text; None becomes null."""
    columns: dict[str, pa.Array] = {}
    for name, value in row.items():
        if isinstance(value, str):
            columns[name] = pa.array([value], pa.string())
        elif isinstance(value, int):
            columns[name] = pa.array([value], pa.int64())
        else:
            # A missing metric becomes a null of float64, the type it has in other epochs.
            columns[name] = pa.array([value], pa.float64())
    write_table(folder / METRICS, pa.table(columns))


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics of one epoch by column name.

    Raises:
        ArtifactError: the table is missing or damaged.
    """
    path = folder / METRICS
    table = read_table(path)
    with _reading(path):
        (row,) = table.to_pylist()
        return row
