"""The iterations of k-means: Lloyd's algorithm, for one rank and for many.

Suffixes: S rows to learn from, B block, Q dimensions, K clusters, J requested rows.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core.clustering.exact import ClusterSums, mean_of
from deepcluster_core.clustering.faiss_index import Library
from deepcluster_core.clustering.least_size import Quota
from deepcluster_core.clustering.nearest import UNIT_ROWS, Nearest, search_rows
from deepcluster_core.clustering.points import DevicePoints, Points
from deepcluster_core.clustering.rows import Floats
from deepcluster_core.clustering.workers import workers
from deepcluster_core.seeding import numpy_generator

APART = 1 / 1024
"""How far a refilled cluster and its donor move apart, relative to each coordinate; as in faiss."""

SUM_ROWS = 2 * UNIT_ROWS
"""Rows whose sums a worker computes at once, between searches.

Each search displaces the sums from the processor's cache: after each 2,048 rows, the sums took half
as long again.
"""

SUM_BYTES = 1 << 29
"""Most memory for the sums of all workers together, which limits their number."""

QUOTA_ITERATIONS = 3
"""Iterations at the end in which clusters have a least size, if one is set."""

Doubles = NDArray[np.float64]


def iterate(  # noqa: PLR0913  where to compute is two of them
    points: Points | DevicePoints,
    centroids_KQ: Floats,
    *,
    iterations: int,
    seed: int,
    spherical: bool = False,
    device: str = "cpu",
    library: Library | None = None,
    least: int = 0,
) -> tuple[Floats, tuple[float, ...]]:
    """Run all iterations; return centroids_KQ and the objective before each of them.

    An iteration assigns each row to its nearest centroid, and moves each centroid to the mean of
    its rows. faiss or torch finds the nearest centroids. The sums of rows are exact, so that all
    ranks compute the same means, and the result does not depend on their number.

    Args:
        points: the rows to learn from.
        centroids_KQ: the initial centroids, equal on all ranks.
        iterations: number of iterations; none is left out when nothing moves any more.
        seed: decides from which clusters empty ones are refilled.
        spherical: scale centroids to length 1, at the start and after each iteration.
        device: a torch device for the search, and if torch searches, for the sums.
        library: what searches, torch for `DevicePoints`; None for the default of the device.
        least: least number of rows of a cluster in the last iterations, `QUOTA_ITERATIONS`; above 0
            on a single rank only.

    Returns:
        The centroids, float32, and for each iteration the sum of the squared distances of all rows
        to the centroids that the iteration began with, each to that of its cluster.
    """
    if spherical:
        centroids_KQ = _of_length_1(centroids_KQ.astype(np.float64)).astype(np.float32)
    block_rows = search_rows(points.num_points, device)
    nearest = Nearest(centroids_KQ, device=device, block_rows=block_rows, library=library)
    squares = points.sum_of_squares()
    objective: list[float] = []
    with _passes(points, nearest, centroids_KQ.size) as sums_by_nearest:
        for iteration in range(iterations):
            nearest.move_to(centroids_KQ)
            if least and iteration >= iterations - QUOTA_ITERATIONS:
                sums = _sums_with_quota(points, nearest, centroids_KQ, least, device)
            else:
                sums = sums_by_nearest()
            sum_KQ, count_K = sums.total(points.ranks)
            objective.append(squares + _away(centroids_KQ, sum_KQ, count_K))
            mean_KQ = mean_of(sum_KQ, count_K)
            if not count_K.all():  # which all ranks see alike
                generator = numpy_generator(seed, "refill", iteration)
                refill = partial(refilled, mean_KQ, count_K, generator)
                mean_KQ = points.ranks.on_first(refill, "refilled clusters")
            if spherical:
                mean_KQ = _of_length_1(mean_KQ)
            centroids_KQ = mean_KQ.astype(np.float32)
    return centroids_KQ, tuple(objective)


@contextmanager
def _passes(
    points: Points | DevicePoints, nearest: Nearest, num_values: int
) -> Iterator[Callable[[], ClusterSums]]:
    """Yield a function that returns the sums of the rows of this rank by nearest centroid."""
    if isinstance(points, DevicePoints) or nearest.is_on_device:
        yield partial(points.sums_by_nearest, nearest)
        return
    num_workers = _num_workers(nearest, num_values)
    with workers(num_workers) as pool:
        yield partial(_sums, points, nearest, pool, num_workers)


def _num_workers(nearest: Nearest, num_values: int) -> int:
    """Return how many workers to start for sums of so many values each."""
    if not nearest.is_concurrent:
        return 1
    most = max(1, SUM_BYTES // (8 * num_values))
    return min(torch.get_num_threads(), most)


def _sums(points: Points, nearest: Nearest, pool: Executor, num_workers: int) -> ClusterSums:
    """Return the sums of the rows of this rank by nearest centroid, computed by workers."""
    starts = iter(range(0, len(points.own), SUM_ROWS))

    def work() -> ClusterSums:
        sums = points.new_sums(nearest.num_centroids)
        for start in starts:  # each worker takes the next rows
            rows_BQ = points.own_SQ[start : start + SUM_ROWS]
            sums.add(rows_BQ, nearest.find(rows_BQ))
        return sums

    tasks = [pool.submit(work) for _ in range(num_workers)]
    try:
        first, *others = [task.result() for task in tasks]
    finally:
        deque(starts, maxlen=0)  # if interrupted, so that no worker goes on
    for other in others:
        first.include(other)
    return first


def _sums_with_quota(
    points: Points | DevicePoints,
    nearest: Nearest,
    centroids_KQ: Floats,
    least: int,
    device: str,
) -> ClusterSums:
    """Return the sums of all rows, by clusters that have at least `least` rows each."""
    block_rows = nearest.block_rows
    cluster_S, distance_S = points.assign(nearest)
    quota = Quota(lambda: points.blocks(block_rows), centroids_KQ, least, device)
    cluster_S, _ = quota.fill(cluster_S, distance_S)
    return points.sums_of(cluster_S, nearest.num_centroids)


def refilled(
    centroids_KQ: Doubles, count_K: NDArray[np.int64], generator: np.random.Generator
) -> Doubles:
    """Return centroids of which each empty cluster has taken half of another one.

    For each empty cluster a donor is drawn, with a probability proportional to its rows minus one.
    The empty cluster takes the donor's centroid, and the two move apart: one is multiplied by
    1 + 1/1024 in even and 1 - 1/1024 in odd coordinates, the other the reverse. Half of the donor's
    rows count as those of the refilled cluster from then on. These are the rules of faiss, but the
    draws are ours.

    Args:
        centroids_KQ: the means of the clusters.
        count_K: rows of each cluster, in total at least K.
        generator: draws the donors.
    """
    centroids_KQ = centroids_KQ.copy()
    count_K = count_K.copy()
    apart_Q = np.full(centroids_KQ.shape[1], APART)
    apart_Q[1::2] = -APART
    for empty in np.flatnonzero(count_K == 0):
        # A cluster with a single row cannot give any. There is a donor: K rows fill K clusters.
        can_give_K = np.maximum(count_K - 1, 0)
        ends_K = can_give_K.cumsum()
        donor = np.searchsorted(ends_K, generator.integers(ends_K[-1]), side="right")
        centroids_KQ[empty] = centroids_KQ[donor] * (1 + apart_Q)
        centroids_KQ[donor] *= 1 - apart_Q
        count_K[empty] = count_K[donor] // 2
        count_K[donor] -= count_K[empty]
    return centroids_KQ


def _away(centroids_KQ: Floats, sum_KQ: Doubles, count_K: NDArray[np.int64]) -> float:
    """Return the sum of squared distances of rows to their centroids, less that of |x|^2.

    |x - c|^2 is |x|^2 + |c|^2 - 2 x·c, whose sum over the rows of a cluster needs only their sum.
    """
    double_KQ = centroids_KQ.astype(np.float64)
    squared_K = np.einsum("kq,kq->k", double_KQ, double_KQ)
    product_K = np.einsum("kq,kq->k", double_KQ, sum_KQ)
    return float((count_K * squared_K - 2 * product_K).sum())


def _of_length_1(centroids_KQ: Doubles) -> Doubles:
    """Return centroids scaled to length 1; zero stays zero."""
    length_K1 = np.linalg.norm(centroids_KQ, axis=1, keepdims=True)
    return centroids_KQ / np.where(length_K1 > 0, length_K1, 1)
