"""Parquet tables that pandas reads for all epochs at once: labels and metrics."""

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

if TYPE_CHECKING:  # 1.2 s of CPU, and most commands read tables without it
    import pandas as pd

STRING_LIMIT_BYTES = (1 << 31) - 1
"""The limit on text in one chunk of Arrow's type `string`."""
STRING_CHUNK_ROWS = 1 << 16
"""Rows that stay below that limit even with the longest paths: 4 KiB, each byte written `\\xff`."""
LABELS_SCHEMA = pa.schema(
    {
        "image_id": pa.int64(),
        "path": pa.string(),
        "cluster": pa.int32(),
        "distance": pa.float32(),
    }
)


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet with a checksum on every page."""
    pq.write_table(table, path, write_page_checksum=True)


def write_frame(path: Path, frame: "pd.DataFrame") -> None:
    """Write the columns of a data frame as Parquet, with a checksum on every page."""
    write_table(path, pa.Table.from_pandas(frame, preserve_index=False))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read Parquet and verify its checksums, and the file's own where an artifact has one.

    Raises:
        ArtifactError: the file is missing, damaged or has other columns.
    """
    verify(path)
    with _reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        if absent := set(columns or ()) - set(file.schema_arrow.names):  # `read` skips them
            raise pa.ArrowInvalid(f"no column {', '.join(sorted(absent))}")
        return file.read(columns)


def _reading(path: Path) -> AbstractContextManager[None]:
    """Explain what Arrow raises for damage, or for columns of other types."""

    def explain(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{path}: cannot be read ({first_line(error)}).\n"
            f"  Fix: run the stage that makes it again, with --force."
        )

    return explain_damage(explain, OSError, pa.ArrowException, ValueError, OverflowError, KeyError)


def read_index(folder: Path, columns: list[str]) -> pa.Table:
    """Read columns of an images artifact's index, sorted by image_id, its first column.

    Raises:
        ArtifactError: missing or damaged, or image_id are not 0 to N - 1, each once.
    """
    return _by_image_id(folder / INDEX, columns, stage="index")


def _by_image_id(path: Path, columns: list[str], *, stage: str) -> pa.Table:
    table = read_table(path, columns)
    with _reading(path):
        table = in_one_piece(table)
        # Our tables are written in this order: comparing the ids is cheaper than sorting the rows.
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
    return np.array_equal(ids.to_numpy(), np.arange(len(ids)))


def in_one_piece(table: pa.Table) -> pa.Table:
    """Return the table with each column in one chunk, whatever its size.

    The offsets of Arrow's `string` have 32 bits, so a chunk holds 2 GiB of text at most, and
    sorting, taking and combining larger columns raise an overflow error. A column that may be
    larger becomes `large_string`, whose offsets have 64 bits.
    """
    for number, column in enumerate(table.columns):
        if pa.types.is_string(column.type) and column.nbytes > STRING_LIMIT_BYTES:
            name = table.column_names[number]
            table = table.set_column(number, name, column.cast(pa.large_string()))
    return table.combine_chunks()


def as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of text with the type `string`, in several chunks if it needs them."""
    if not pa.types.is_large_string(column.type):
        return column
    chunks: list[pa.Array] = []
    for start in range(0, len(column), STRING_CHUNK_ROWS):
        stop = min(start + STRING_CHUNK_ROWS, len(column))
        # `take` copies the rows. A slice keeps the offsets of the whole, which may need 64 bits.
        chunks += column.take(np.arange(start, stop)).cast(pa.string()).chunks
    return pa.chunked_array(chunks, pa.string())


@dataclass(frozen=True)
class Labels:
    """The clusters of all images at one epoch, in the order of image_id."""

    cluster_N: NDArray[np.int32]
    distance_N: NDArray[np.float32]
    """Euclidean, to the own centroid, in the space that was clustered."""
    k: int
    """Clusters asked for; ids are 0 to k - 1, and some may be empty."""


def write_labels(
    folder: Path,
    *,
    images: Path,
    cluster_N: NDArray[np.int32],
    distance_N: NDArray[np.float32],
    clustering: Mapping[str, NDArray[np.float32]],
) -> None:
    """Write labels.parquet, and beside it what is needed to assign new images later.

    Args:
        folder: of the artifact.
        images: folder of the images artifact, which knows the paths.
        cluster_N: cluster of image_id i.
        distance_N: its distance to the centroid.
        clustering: the arrays of the PCA and the centroids; `centroids` is (K, Q).
    """
    index = read_index(images, ["image_id", "path"])
    columns = [index["image_id"], as_strings(index["path"]), cluster_N, distance_N]
    write_table(folder / LABELS, pa.table(columns, schema=LABELS_SCHEMA))
    save_file(
        {name: np.ascontiguousarray(a) for name, a in clustering.items()}, folder / CLUSTERING
    )
    let_others_read(folder / CLUSTERING)


def read_labels(folder: Path) -> Labels:
    """Read a label table, sorted by image_id whatever order or files its rows came in.

    Raises:
        ArtifactError: damaged, or image_id are not 0 to N - 1, each once.
    """
    path, names = folder / LABELS, ["image_id", "cluster", "distance"]
    table = _by_image_id(path, names, stage="cluster")
    with _reading(path):
        table = table.cast(pa.schema([LABELS_SCHEMA.field(n).with_nullable(False) for n in names]))
    return Labels(
        cluster_N=table["cluster"].to_numpy(),
        distance_N=table["distance"].to_numpy(),
        k=len(read_clustering(folder)["centroids"]),
    )


def label_frame(folder: Path) -> "pd.DataFrame":
    """Return image_id, path, cluster and distance of all images, in the order of image_id.

    Raises:
        ArtifactError: damaged, or image_id are not 0 to N - 1, each once.
    """
    return _by_image_id(folder / LABELS, LABELS_SCHEMA.names, stage="cluster").to_pandas()


def read_cluster(folder: Path, cluster: int) -> list[dict[str, Any]]:
    """Return image_id, path and distance of a cluster's images, nearest to its centroid first.

    Raises:
        ArtifactError: missing or damaged.
    """
    path = folder / LABELS
    table = read_table(path, LABELS_SCHEMA.names)
    with _reading(path):
        chosen = in_one_piece(table.filter(pc.field("cluster") == cluster))
        return chosen.sort_by([("distance", "ascending"), ("image_id", "ascending")]).to_pylist()


def read_clustering(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Read the PCA and the centroids of a label table, as `write_labels` got them.

    Raises:
        ArtifactError: missing or damaged.
    """
    path = folder / CLUSTERING
    verify(path)
    with explain_damage(
        lambda error: ArtifactError(
            f"{path}: cannot be read ({error}).\n"
            f"  Fix: run the cluster stage again: deepcluster stage cluster … --force"
        )
    ):
        return load_file(path)


def write_metrics(folder: Path, row: Mapping[str, float | int | str | None]) -> None:
    """Write the one row of an epoch. None becomes null; ints are int64, other numbers float64."""
    types: dict[type, pa.DataType] = {int: pa.int64(), str: pa.string()}
    columns = {
        name: pa.array([value], types.get(type(value), pa.float64())) for name, value in row.items()
    }
    write_table(folder / METRICS, pa.table(columns))


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read the row of one epoch.

    Raises:
        ArtifactError: missing or damaged.
    """
    path = folder / METRICS
    table = read_table(path)
    with _reading(path):
        (row,) = table.to_pylist()
        return row
