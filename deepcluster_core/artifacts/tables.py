"""Read and write Parquet tables of labels and metrics, which pandas can read for all epochs.

Suffixes: N images, B rows of a batch, K clusters, Q dimensions, M members of a cluster.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from deepcluster_core.artifacts.file_checks import verify
from deepcluster_core.artifacts.file_names import (
    CLUSTERING,
    INDEX,
    LABELS,
    METRICS,
    in_clustering,
    of_all_clusterings,
)
from deepcluster_core.artifacts.files import let_others_read
from deepcluster_core.artifacts.image_rows import (
    TextByImage,
    open_rows,
    open_table,
    read_numbers,
    read_rows,
    reading,
)
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
"""The columns of a table with one clustering. Further ones add two columns each.

With `cluster.paths: false` there is no column `path`; readers join it from the index.
"""

_NUMBERS = ["cluster", "distance"]
_OF_FURTHER_CLUSTERINGS = re.compile(r"(cluster|distance)_[1-9][0-9]*")

Assigned = tuple[NDArray[np.int32], NDArray[np.float32]]
"""The cluster of each image, and its distance to the centroid."""


def fields_of(number: int) -> list[pa.Field]:
    """Return the two columns of a clustering."""
    return [
        LABELS_SCHEMA.field(name).with_name(in_clustering(name, number))
        for name in ("cluster", "distance")
    ]


def labels_schema(num_clusterings: int, *, with_paths: bool = True) -> pa.Schema:
    """Return the columns of a table of labels with so many clusterings of the images."""
    schema = LABELS_SCHEMA
    if not with_paths:
        schema = schema.remove(schema.get_field_index("path"))
    for number in range(1, num_clusterings):
        for field in fields_of(number):
            schema = schema.append(field)
    return schema


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
    """The clusters of all images at one epoch, in the order of image_id.

    If the images were clustered several times, these are the clusters of the first clustering.
    """

    cluster_N: NDArray[np.int32]
    distance_N: NDArray[np.float32]
    """Euclidean distance to the image's own centroid, in the space that was clustered."""
    k: int
    """Requested number of clusters; ids are 0 to k - 1, and some clusters may be empty."""
    others: "tuple[Labels, ...]" = ()
    """The labels of further clusterings of the images."""

    @property
    def heads(self) -> "tuple[Labels, ...]":
        """The labels of all clusterings; the network has one classifier for each."""
        return (self, *self.others)


def write_labels(
    folder: Path,
    *,
    images: Path,
    cluster_N: NDArray[np.int32],
    distance_N: NDArray[np.float32],
    clustering: Mapping[str, NDArray[np.float32]],
    others: Sequence[Assigned] = (),
    with_paths: bool = True,
) -> None:
    """Write labels.parquet, and beside it the arrays needed to assign new images later.

    Args:
        folder: folder of the artifact.
        images: folder of the images artifact, which provides the paths.
        cluster_N: cluster of each image, in the order of image_id.
        distance_N: distance of each image to its centroid.
        clustering: the arrays of the PCA and the centroids; `centroids` is (K, Q), and those of
            the next clusterings are `centroids_1`, `centroids_2` and so on.
        others: clusters and distances of further clusterings.
        with_paths: whether the table repeats the paths.
    """
    arrays_N = [cluster_N, distance_N]
    for pair in others:
        arrays_N += pair
    # In the order of the index, which is that of image_id, so that no text is moved.
    of_index = ["path"] if with_paths else []
    with (
        open_rows(images / INDEX, of_index, stage="index") as index,
        TableWriter(
            folder / LABELS, labels_schema(1 + len(others), with_paths=with_paths)
        ) as labels,
    ):
        assert all(len(array_N) == index.num_rows for array_N in arrays_N)
        for at, rows in index.batches(of_index):
            image_id_B = np.arange(at.start, at.stop) if isinstance(at, slice) else at
            paths = [rows[name].cast(pa.string()) for name in of_index]
            labels.add(image_id_B, *paths, *(array_N[at] for array_N in arrays_N))
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
    centroids = centroids_of(folder)
    fields = [field for number in range(len(centroids)) for field in fields_of(number)]
    arrays_N = read_numbers(folder / LABELS, fields, stage="cluster")
    heads: list[Labels] = []
    for centroids_KQ, cluster_N, distance_N in zip(
        centroids, arrays_N[::2], arrays_N[1::2], strict=True
    ):
        head = Labels(
            cluster_N=cluster_N.astype(np.int32, copy=False),
            distance_N=distance_N.astype(np.float32, copy=False),
            k=len(centroids_KQ),
        )
        heads.append(head)
    first, *others = heads
    return replace(first, others=tuple(others))


def centroids_of(folder: Path) -> tuple[NDArray[np.float32], ...]:
    """Return centroids_KQ of each clustering, the first one first.

    Raises:
        ArtifactError: the file with the centroids is missing, damaged or without centroids.
    """
    found = of_all_clusterings(read_clustering(folder), "centroids")
    if not found:
        raise ArtifactError(
            f"{folder / CLUSTERING}: holds no centroids.\n"
            f"  Fix: run the cluster stage again: deepcluster stage cluster … --force"
        )
    return found


def label_frame(folder: Path, images: Path) -> "pd.DataFrame":
    """Return image_id, path, cluster and distance of all images, in the order of image_id.

    Of further clusterings, it has `cluster_1`, `distance_1` and so on.

    Args:
        folder: folder of the labels.
        images: folder of the images artifact, for the paths if the labels have none.

    Raises:
        ArtifactError: a table is damaged, or its image_id are not 0 to N - 1, each once.
    """
    path = folder / LABELS
    with open_rows(path, _NUMBERS, stage="cluster") as rows:
        has_paths = "path" in rows.columns
        known = [name for name in LABELS_SCHEMA.names if name in rows.columns]
        columns = [*known, *filter(_OF_FURTHER_CLUSTERINGS.fullmatch, rows.columns)]
        batches = [batch for _, batch in rows.batches(columns[1:])]
    with reading(path):
        frame = pa.Table.from_batches(batches).select(columns).to_pandas()
    if not frame["image_id"].is_monotonic_increasing:
        frame = frame.sort_values("image_id", ignore_index=True)
    if not has_paths:
        texts = TextByImage(images / INDEX, "path", stage="index")
        frame.insert(1, "path", texts.in_order().to_pandas())
    return frame


def read_cluster(folder: Path, cluster: int, images: Path) -> list[dict[str, Any]]:
    """Return image_id, path and distance of a cluster's images, nearest to its centroid first.

    The cluster is one of the first clustering.

    Args:
        folder: folder of the labels.
        cluster: id of the cluster.
        images: folder of the images artifact, for the paths if the labels have none.

    Raises:
        ArtifactError: a table is damaged, or its image_id are not 0 to N - 1, each once.
    """
    path = folder / LABELS
    members: list[dict[str, Any]] = []
    with open_rows(path, _NUMBERS, stage="cluster") as rows:
        has_paths = "path" in rows.columns
        for _, batch in rows.batches([*_NUMBERS, "path"] if has_paths else _NUMBERS):
            with reading(path):
                chosen = batch.filter(pc.field("cluster") == cluster)
                members += chosen.to_pylist()
    with reading(path):
        distances = pa.array([member["distance"] for member in members], pa.float32())
        distance_M = distances.to_numpy(zero_copy_only=False)
    image_ids = [member["image_id"] for member in members]
    if not has_paths:
        indexed = read_index(images, ["path"], image_ids)
        members = [one | other for one, other in zip(members, indexed, strict=True)]
    image_id_M = np.array(image_ids, np.int64)
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
