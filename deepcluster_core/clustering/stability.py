"""How long images stay with their cluster. Suffixes: N images, M matched clusters."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.metrics import ids_from_0, matching, overlaps

Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Stability:
    """How many images were with their present cluster in the epochs before."""

    epochs: int
    """Number of earlier epochs that were compared with the present one."""
    mean: float
    """Mean over the images of the share of these epochs, 0 to 1, in which they were with it."""
    always: float
    """Share of the images, 0 to 1, that were with it in all of these epochs."""
    never: float
    """Share of the images, 0 to 1, that were with it in none of these epochs."""


def stability(current_N: Ints, earlier: Iterable[Ints]) -> Stability | None:
    """Return how stable the clusters of images are; None without earlier epochs.

    Clusters of each earlier epoch are matched with the present ones, one to one, so that as many
    images as possible agree (Hungarian matching). An image was with its cluster if its cluster then
    is the one matched with its cluster now. A cluster that has split is matched with one of its
    parts, so that the images of the others count as moved; `moved_fraction`, in contrast, allows
    several parts to match.

    Args:
        current_N: the present clusters, of at least one image.
        earlier: clusters of these images in earlier epochs. One is in memory at a time.
    """
    stayed_N, epochs = epochs_stayed(current_N, earlier)
    return None if epochs == 0 else summary(stayed_N, epochs)


def summary(stayed_N: Ints, epochs: int) -> Stability:
    """Return how stable the clusters are, from what `epochs_stayed` returns of some epochs."""
    return Stability(
        epochs=epochs,
        mean=float(stayed_N.mean() / epochs),
        always=float((stayed_N == epochs).mean()),
        never=float((stayed_N == 0).mean()),
    )


def epochs_stayed(current_N: Ints, earlier: Iterable[Ints]) -> tuple[NDArray[np.int32], int]:
    """Return in how many earlier epochs each image was with its present cluster, and their number.

    See `stability`.
    """
    stayed_N = np.zeros(len(current_N), np.int32)
    epochs = 0
    for before_N in earlier:
        stayed_N += same_cluster(before_N, current_N)
        epochs += 1
    return stayed_N, epochs


def same_cluster(before_N: Ints, current_N: Ints) -> NDArray[np.bool_]:
    """Return which images are in the clusters that are matched with each other.

    Args:
        before_N: clusters in an earlier epoch.
        current_N: the present clusters of these images.
    """
    before_N, current_N = ids_from_0(before_N), ids_from_0(current_N)
    matched_M, current_M = matching(*overlaps(before_N, current_N))
    now_of = np.full(int(before_N.max()) + 1, -1)
    now_of[matched_M] = current_M
    return now_of[before_N] == current_N
