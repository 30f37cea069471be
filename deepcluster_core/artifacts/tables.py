"""Read and write Parquet tables of labels and metrics, which pandas can read for all epochs."""

from collections.abc import Mapping, Sequence
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
from deepcluster_core.artifacts.image_rows import (
    open_rows,
    open_table,
    read_numbers,
    read_rows,
    reading,
)
from deepcluster_core.artifacts.manifest import verify
from deepcluster_core.artifacts.table_writer import TableWriter
from deepcluster_core.errors import ArtifactError
from deepcluster_core.shortage import explain_damage

if TYPE_CHECKING:  # the import takes 1.2 s of CPU, and most commands do not need it
    import pandas as pd

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
    """Read a whole table; verify its page checksums and, in an artifact, the file's digest.

    Raises:
        ArtifactError: the file is missing, is damaged or lacks a column.
    """
    with open_table(path, columns or ()) as file, reading(path):
        return file.read(columns)


def read_index(
    folder: Path, columns: Sequence[str], image_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Return values of some images from an images artifact's index, in the order of `image_ids`.

    Raises:
        ArtifactError: the index is missing or damaged, or its image_id are not 0 to N - 1, each
            once.
        KeyError: an image does not exist.
    """
    return read_rows(folder / INDEX, columns, image_ids, stage="index")


@dataclass(frozen=True)
class Labels:
    """The clusters of all images at one epoch, in the order of image_id."""

    cluster_N: NDArray[np.int32]
    distance_N: NDArray[np.float32]
    """Euclidean distance to the image's own centroid, in the space that was clustered."""
    k: int
    """Requested number of clusters; ids are 0 to k - 1, and some clusters may be empty."""
    others: tuple["Labels", ...] = ()
    """The further clusterings of the epoch."""

    @property
    def heads(self) -> tuple["Labels", ...]:
        """All clusterings, the first one included."""
        return (self, *self.others)


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
    # In the order of the index, which is that of image_id, so that no text is moved.
    with (
        open_rows(images / INDEX, ["path"], stage="index") as index,
        TableWriter(folder / LABELS, LABELS_SCHEMA) as labels,
    ):
        assert len(cluster_N) == len(distance_N) == index.num_rows
        for at, rows in index.batches(["path"]):
            image_id_B = np.arange(at.start, at.stop) if isinstance(at, slice) else at
            path_B = rows["path"].cast(pa.string())
            labels.add(image_id_B, path_B, cluster_N[at], distance_N[at])
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
    fields = [LABELS_SCHEMA.field("cluster"), LABELS_SCHEMA.field("distance")]
    cluster_N, distance_N = read_numbers(folder / LABELS, fields, stage="cluster")
    centroids_KQ = read_clustering(folder)["centroids"]
    return Labels(
        cluster_N=cluster_N.astype(np.int32, copy=False),
        distance_N=distance_N.astype(np.float32, copy=False),
        k=len(centroids_KQ),
    )


def label_frame(folder: Path) -> "pd.DataFrame":
    """Return image_id, path, cluster and distance of all images, in the order of image_id.

    Raises:
        ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once.
    """
    columns = LABELS_SCHEMA.names
    path = folder / LABELS
    with open_rows(path, columns, stage="cluster") as rows:
        batches = [batch for _, batch in rows.batches(columns[1:])]
    with reading(path):
        frame = pa.Table.from_batches(batches).select(columns).to_pandas()
    if frame["image_id"].is_monotonic_increasing:
        return frame
    return frame.sort_values("image_id", ignore_index=True)


def read_cluster(folder: Path, cluster: int) -> list[dict[str, Any]]:
    """Return image_id, path and distance of a cluster's images, nearest to its centroid first.

    Raises:
        ArtifactError: the table is damaged, or its image_id are not 0 to N - 1, each once.
    """
    path = folder / LABELS
    columns = LABELS_SCHEMA.names[1:]
    members: list[dict[str, Any]] = []
    with open_rows(path, columns, stage="cluster") as rows:
        for _, batch in rows.batches(columns):
            with reading(path):
                chosen = batch.filter(pc.field("cluster") == cluster)
                members += chosen.to_pylist()
    with reading(path):
        distances = pa.array([member["distance"] for member in members], pa.float32())
        distance_M = distances.to_numpy(zero_copy_only=False)
    image_id_M = np.array([member["image_id"] for member in members], np.int64)
    # Images at equal distances are ordered by image_id, so that the order is reproducible.
    nearest_first_M = np.lexsort((image_id_M, distance_M))
    return [members[number] for number in nearest_first_M.tolist()]


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
    with reading(path):
        (row,) = table.to_pylist()
        return row
