"""What an epoch trains on: made once on each machine, and shared by the ranks that run there.

Suffixes: K clusters, M draws, N images.
"""

import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.errors import ArtifactError
from deepcluster_core.ranks import Ranks


@dataclass(frozen=True)
class Plan:
    """The order of an epoch and the pseudo-labels."""

    order_M: NDArray[np.integer]
    """The image_id of every position of the epoch."""
    cluster_N: NDArray[np.int32]
    """The cluster of every image."""
    weight_K: NDArray[np.float32]
    """Weight of the loss of each cluster's images, if the loss is weighted."""

    @property
    def k(self) -> int:
        """The number of clusters, empty ones included."""
        return len(self.weight_K)


def shared_plan(make: Callable[[], Plan], folder: Path, artifact: Path, ranks: Ranks) -> Plan:
    """Return a plan that the first rank of each machine makes and its other ranks map.

    For 100 M images the arrays have 0.8 GB, and making them takes more than twice as much. Mapped
    files are in memory once, and not all the time. A single rank writes nothing.

    Args:
        make: returns the plan; equal on all machines.
        folder: for temporary files; they are deleted as soon as all ranks have mapped them. Several
            runs can use it at the same time.
        artifact: folder of the artifact that the ranks make; only one attempt makes it at a time.
        ranks: all of them must call this.

    Raises:
        ArtifactError: the disk of `folder` is full, or the folder cannot be written.
    """
    if ranks.size == 1:
        return make()
    paths = _paths(folder, artifact)
    try:
        if ranks.local_rank == 0:
            plan = make()
            with _explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
                _write(plan, paths)
        ranks.barrier("epoch plan written")
        plan = Plan(
            order_M=np.memmap(paths["order_M"], np.uint32, "r"),
            cluster_N=np.memmap(paths["cluster_N"], np.int32, "r"),
            weight_K=np.memmap(paths["weight_K"], np.float32, "r"),
        )
        ranks.barrier("epoch plan mapped")
    finally:
        # Mapped files keep their contents until the maps are closed.
        if ranks.local_rank == 0:
            for path in paths.values():
                path.unlink(missing_ok=True)
    return plan


def _paths(folder: Path, artifact: Path) -> dict[str, Path]:
    """Return the files, whose names are the same in each attempt to make an artifact.

    An attempt that was killed leaves its files, and the next one replaces them.
    """
    # One folder may serve several runs, and several machines. None of them may replace or delete
    # what another one has written and not yet mapped.
    owner = f"{socket.gethostname()}:{artifact.absolute()}"
    mark = hashlib.sha256(owner.encode()).hexdigest()[:16]
    names = ("order_M", "cluster_N", "weight_K")
    return {name: folder / f"plan-{mark}-{name}.part" for name in names}


def _write(plan: Plan, paths: dict[str, Path]) -> None:
    # Four bytes for an image: order_M is made with eight.
    arrays = {
        "order_M": plan.order_M.astype(np.uint32),
        "cluster_N": plan.cluster_N.astype(np.int32, copy=False),
        "weight_K": plan.weight_K,
    }
    for name, path in paths.items():
        array = np.ascontiguousarray(arrays[name])
        with path.open("wb") as file:
            # Not by `tofile`, whose error about a full disk does not always say what is wrong.
            file.write(array.data)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Replace an error of the system by one that names the folder and the setting."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{folder}: what the ranks of a machine share for training, 8 bytes an image, cannot "
            f"be written here.\n"
            f"  Cause: {error.strerror or error}\n"
            f"  Fix:   set compute.scratch to a folder on a disk with more room."
        ) from error
