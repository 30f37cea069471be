"""What an epoch trains on: made once on each machine, and shared by the ranks that run there.

Suffixes: H clusterings, K clusters, M draws, N images.
"""

import hashlib
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.tables import read_labels
from deepcluster_core.clustering.second_clusters import SecondClusters
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.memory import release_freed_memory
from deepcluster_core.ranks import Ranks
from deepcluster_core.training.sampler import balancing_weights, plain_order, uniform_order

RELEASED_BYTES = 1 << 26
"""Bytes of an order, 17 million images, above which the memory for making it is given back. Below,
it is worth less than the time in which the kernel maps it again."""


@dataclass(frozen=True)
class Plan:
    """The order of an epoch and the pseudo-labels."""

    order_M: NDArray[np.integer]
    """The image_id of every position of the epoch."""
    cluster_HN: NDArray[np.int32]
    """The cluster of every image in each clustering."""
    weight_K: NDArray[np.float32]
    """Weight of the loss of the images of each cluster of the first clustering, if the loss is
    weighted."""
    second_HN: NDArray[np.int32] | None = None
    """A second cluster of every image, for soft targets; None for hard ones."""
    second_share_HN: NDArray[np.float16] | None = None
    """The share of the target that the second cluster has; None for hard targets."""

    def second_of(self, image_id_B: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the second clusters of images and their shares, as a `Batch` has them."""
        if self.second_HN is None or self.second_share_HN is None:
            return {}
        return {
            "second_HB": self.second_HN[:, image_id_B].astype(np.int64),
            "second_share_HB": self.second_share_HN[:, image_id_B].astype(np.float32),
        }

    @property
    def k(self) -> int:
        """The number of clusters of the first clustering, empty ones included."""
        return len(self.weight_K)

    def check_single(self) -> None:
        """Check that there is one clustering, for a head that is trained.

        Raises:
            ConfigError: there are several.
        """
        if len(self.cluster_HN) > 1:
            raise ConfigError(
                f"train.prototypes: the labels have {len(self.cluster_HN)} clusterings, but a head "
                f"that is trained classifies one.\n"
                f"  Fix: set train.prototypes, or give cluster.k one number."
            )


@dataclass(frozen=True)
class Cuts:
    """Where the order of an epoch is cut into batches."""

    num_draws: int
    """M, the number of images in the epoch."""
    batch_size: int
    """Largest number of images in a batch."""
    is_even: bool = False
    """Whether batches differ by one image at the most. Otherwise all but the last are full.

    Batch normalisation behind few images is noise: the last batch of an epoch can have two images.
    """

    @property
    def num_steps(self) -> int:
        """The number of batches."""
        return math.ceil(self.num_draws / self.batch_size)

    def without_single_image(self) -> "Cuts":
        """Return the cuts of an epoch one image shorter if a batch has a single image.

        Batch normalisation needs at least two, so an image that would be alone is left out.
        """
        # The smallest batch is the first one if the cut is even, else the last one.
        sizes = (len(self.rows(0)), len(self.rows(self.num_steps - 1)))
        if self.num_draws > 1 and 1 in sizes:
            return replace(self, num_draws=self.num_draws - 1)
        return self

    def rows(self, step: int) -> range:
        """Return the positions in the epoch of the images of a batch."""
        if self.is_even:
            start = step * self.num_draws // self.num_steps
            return range(start, (step + 1) * self.num_draws // self.num_steps)
        start = step * self.batch_size
        return range(start, min(start + self.batch_size, self.num_draws))


Balance = Literal["sample", "weigh", "none"]
"""How small clusters are balanced against large ones, see `train.balance`."""


FindSecondClusters = Callable[[NDArray[np.int32]], SecondClusters]
"""Returns the second clusters of all images, given their clusters (H, N)."""


def plan_of(
    labels: Path,
    *,
    balance: Balance,
    num_draws: int,
    num_kept: int,
    seed: int,
    find_second: FindSecondClusters | None = None,
) -> Plan:
    """Return the order of an epoch, which depends on labels and seed only, and the clusters.

    With several clusterings, the first one decides what is drawn and how it is weighted.

    Args:
        labels: folder of the labels artifact.
        balance: how small clusters are balanced against large ones.
        num_draws: number of images to draw.
        num_kept: number of draws that the epoch trains on, the first ones.
        seed: seed of the order.
        find_second: finds second clusters, for soft targets; None for hard ones.

    Raises:
        ArtifactError: the labels are missing or damaged.
    """
    assigned = read_labels(labels)
    k = assigned.k
    clusters = [head.cluster_N for head in assigned.heads]
    del assigned  # the distances, four bytes an image
    cluster_N = clusters[0]
    generator = np.random.default_rng(seed)
    if balance == "sample":
        order_M = uniform_order(cluster_N, k=k, num_draws=num_draws, generator=generator)
    else:
        order_M = plain_order(len(cluster_N), num_draws, generator)
    # Without a copy if there is one clustering.
    cluster_HN = cluster_N[None] if len(clusters) == 1 else np.stack(clusters)
    plan = Plan(order_M[:num_kept], cluster_HN, balancing_weights(cluster_N, k=k))
    if find_second is None:
        return plan
    second = find_second(cluster_HN)
    return replace(plan, second_HN=second.cluster_HN, second_share_HN=second.share_HN)


def shared_plan(make: Callable[[], Plan], folder: Path, artifact: Path, ranks: Ranks) -> Plan:
    """Return a plan that the first rank of each machine makes and its other ranks map.

    For 100 M images the arrays have 0.8 GB, and making them takes 2 GB. Mapped files are in memory
    once, and not all the time. A single rank writes nothing.

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
            is_large = plan.order_M.nbytes > RELEASED_BYTES
            del plan
            if is_large:
                release_freed_memory()
        # Waits for the first rank without a time limit: 100 M images may take minutes.
        ranks.on_first(lambda: None, "epoch plan made")
        ranks.barrier("epoch plan written")
        arrays: dict[str, Any] = {}
        for name, path in paths.items():
            if path.exists():
                arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        plan = Plan(**arrays)
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
    return {one.name: folder / f"plan-{mark}-{one.name}.part" for one in fields(Plan)}


def _write(plan: Plan, paths: dict[str, Path]) -> None:
    # Four bytes for an image.
    narrow = replace(
        plan,
        order_M=plan.order_M.astype(np.uint32, copy=False),
        cluster_HN=plan.cluster_HN.astype(np.int32, copy=False),
    )
    for name, path in paths.items():
        path.unlink(missing_ok=True)  # of an attempt that was killed
        if getattr(narrow, name) is None:
            continue
        array = np.ascontiguousarray(getattr(narrow, name))
        with path.open("wb") as file:
            header = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(file, header)
            # Not by `np.save`, whose error about a full disk does not always say what is wrong.
            file.write(array.data)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Replace an error of the system by one that names the folder and the setting."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{folder}: what the ranks of a machine share for training, 4 bytes for each image "
            f"drawn and for each cluster of an image, cannot be written here.\n"
            f"  Cause: {error.strerror or error}\n"
            f"  Fix:   set compute.scratch to a folder on a disk with more room."
        ) from error
