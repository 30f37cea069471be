"""Small index and label tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepcluster_core.artifacts.file_names import INDEX
from deepcluster_core.artifacts.images_writer import INDEX_SCHEMA
from deepcluster_core.artifacts.tables import (
    write_labels,
)

CENTROIDS = np.arange(12, dtype=np.float32).reshape(4, 3)


CLUSTER_N = np.array([2, 0, 2, 3, 0, 2], np.int32)


DISTANCE_N = np.array([0.5, 0.1, 0.2, 0.3, 0.9, 0.2], np.float32)


def write_index(folder: Path, ids: list[int]) -> Path:
    """Write the table of an images artifact with its rows in this order; image 7 is 7.png."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "image_id": ids,
        "path": [f"{number}.png" for number in ids],
        "label": [None] * len(ids),
        "width": [8] * len(ids),
        "height": [8] * len(ids),
        "format": ["PNG"] * len(ids),
    }
    pq.write_table(pa.table(columns, schema=INDEX_SCHEMA), folder / INDEX)
    return folder


def write(
    folder: Path,
    images: Path,
    cluster_N: NDArray[np.int32] = CLUSTER_N,
    distance_N: NDArray[np.float32] = DISTANCE_N,
    *,
    with_paths: bool = True,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_labels(
        folder,
        images=images,
        cluster_N=cluster_N,
        distance_N=distance_N,
        clustering={"centroids": CENTROIDS},
        with_paths=with_paths,
    )
    return folder
