"""Features of many images, and their clustering on two ranks under a limit of memory.

Usage: python -m tests.support.many_rows FOLDER SCRATCH
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.generated_index import write_generated_index
from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.features import write_features
from deepcluster_core.context import Context
from deepcluster_core.errors import DeepClusterError
from stages.cluster import ClusterConfig, cluster
from stages.extract import extract
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.launch.placement import Placement

DIM = 256
BLOCK_ROWS = 1 << 14
USER_ERROR = 2


def write_rows(folder: Path, num_images: int, dim: int = DIM) -> None:
    """Write `images`, an index of images, and `features` in two bytes for each value."""
    context = Context(seed=1, epoch=0)
    write_generated_index(folder / "images", num_images)
    with new_artifact(
        extract.identity, folder / "features", config={}, inputs={}, context=context
    ) as draft:
        blocks = _blocks(num_images, dim)
        write_features(draft.folder, blocks, num_images=num_images, dtype="float16")
        draft.rows = num_images


def _blocks(num_images: int, dim: int) -> Iterator[NDArray[np.float32]]:
    """Yield rows around ten centres; the same rows again and again, but mirrored."""
    generator = np.random.default_rng(0)
    centre_CD = generator.normal(0, 1, (10, dim))
    noise_BD = generator.normal(0, 1, (BLOCK_ROWS, dim))
    first_BD = (centre_CD[np.arange(BLOCK_ROWS) % 10] + noise_BD).astype(np.float32)
    for start in range(0, num_images, BLOCK_ROWS):
        sign_D = generator.choice(np.array([-1, 1], np.float32), dim)
        yield (first_BD * sign_D)[: num_images - start]


def job(folder: Path) -> Job:
    """Return the clustering of the rows that `write_rows` has written."""
    inputs = {"images": folder / "images", "features": folder / "features", "previous": None}
    config = ClusterConfig(k=10, pca_dim=DIM, iterations=2)
    return Job(cluster, {"cluster": config}, inputs, folder / "labels", 31, 0)


def main(folder: Path, scratch: Path) -> None:
    """Cluster the rows on two ranks, and end like the command."""
    compute = ComputeConfig(device="cpu", ranks=2, threads=1, timeout_s=120)
    placement = Placement.of(RunFolder(folder / "run"), compute, "cpu")
    try:
        placement.run(job(folder), Context(seed=31, epoch=0, workers=1, scratch=scratch))
    except DeepClusterError as error:
        print(f"deepcluster: {error}")  # noqa: T201
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
