"""Find what became of clusters in another labelling, for what is known about a cluster.

Suffixes: N images.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.clustering.changes import Change, changes

Ints = NDArray[np.integer]

ABOVE_CHANCE = 0.1
"""Smallest overlap of a cluster and its successor, corrected for chance: 0 by chance, 1 complete.

The thresholds of `changes` lie far above chance for many clusters, but not for a handful of them:
two random labellings with five clusters each share a ninth of any two.
"""
DEVIATIONS = 3.0
"""Smallest distance of the overlap from that of chance, in standard deviations."""


@dataclass(frozen=True)
class Successor:
    """The cluster of a later labelling that continues an earlier cluster."""

    cluster: int
    """The later cluster."""
    share: float
    """Fraction of its images, 0 to 1, that come from the earlier cluster."""


def successors(before_N: Ints, after_N: Ints, clusters: Iterable[int]) -> dict[int, Successor]:
    """Return the successors of some earlier clusters; those that have none are left out.

    A cluster that moved has one, a cluster that split has its largest child, and clusters that
    merged have one together, as `changes` matches them. An overlap that chance explains does not
    count.

    Args:
        before_N: earlier cluster ids.
        after_N: later cluster ids of these images in equal order.
        clusters: earlier clusters to find the successors of.
    """
    wanted = set(clusters)
    found: dict[int, Change] = {}
    k_before = int(before_N.max()) + 1
    k_after = int(after_N.max()) + 1
    for change in changes(before_N, after_N, k_before=k_before, k_after=k_after):
        previous = change.previous
        if previous not in wanted or change.cluster is None:
            continue
        if not _is_above_chance(change, num_images=len(before_N)):
            continue
        # The children of a split come largest first.
        found.setdefault(previous, change)
    continued: dict[int, Successor] = {}
    for previous, change in found.items():
        assert change.cluster is not None
        continued[previous] = Successor(change.cluster, share=change.shared / change.size)
    return continued


def _is_above_chance(change: Change, *, num_images: int) -> bool:
    """Return whether two clusters share more images than clusters of their sizes would by chance.

    By chance, the number of shared images has a hypergeometric distribution.
    """
    size, previous_size = change.size, change.previous_size
    expected = size * previous_size / num_images
    largest = min(size, previous_size)
    if largest <= expected:  # a cluster of all images shares everything with any other
        return False
    overlap = (change.shared - expected) / (largest - expected)
    others = (num_images - size) * (num_images - previous_size)
    variance = expected * others / (num_images * (num_images - 1))
    is_significant = change.shared - expected >= DEVIATIONS * math.sqrt(variance)
    return overlap >= ABOVE_CHANCE and is_significant
