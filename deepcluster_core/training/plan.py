"""What an epoch trains on: made once on each machine, and shared by the ranks that run there.

Suffixes: K clusters, M draws, N images.
"""

import hashlib
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.ranks import Ranks

ARRAYS = ("order_M", "cluster_N", "weight_K")
"""The fields of a plan, which go to a file each."""


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


def shared_plan(make: Callable[[], Plan], folder: Path, ranks: Ranks) -> Plan:
    """Return a plan that the first rank of each machine makes and its other ranks map.

    For 100 M images the arrays have 0.8 GB, and making them takes more than twice as much. Mapped
    files are in memory once, and not all the time. A single rank writes nothing.

    Args:
        make: returns the plan; equal on all machines.
        folder: for temporary files; they are deleted as soon as all ranks have mapped them.
        ranks: all of them must call this.
    """
    if ranks.size == 1:
        return make()
    folder.mkdir(parents=True, exist_ok=True)
    # Several runs, and several machines, may use one folder at the same time.
    launch = ranks.on_first(lambda: secrets.token_hex(8), "name of the epoch plan")
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    paths = {name: folder / f"plan-{launch}-{host}-{name}.part" for name in ARRAYS}
    try:
        if ranks.local_rank == 0:
            _write(make(), paths)
        ranks.barrier("epoch plan written")
        plan = Plan(
            order_M=np.memmap(paths["order_M"], np.uint32, "r"),
            cluster_N=np.memmap(paths["cluster_N"], np.int32, "r"),
            weight_K=np.memmap(paths["weight_K"], np.float32, "r"),
        )
        ranks.barrier("epoch plan mapped")
    finally:
        # What is mapped stays until it is no longer used.
        if ranks.local_rank == 0:
            for path in paths.values():
                path.unlink(missing_ok=True)
    return plan


def _write(plan: Plan, paths: dict[str, Path]) -> None:
    # Half of what the order is made with: an image_id fits into four bytes.
    arrays = {
        "order_M": plan.order_M.astype(np.uint32),
        "cluster_N": plan.cluster_N.astype(np.int32, copy=False),
        "weight_K": plan.weight_K,
    }
    for name, path in paths.items():
        with path.open("wb") as file:
            arrays[name].tofile(file)
