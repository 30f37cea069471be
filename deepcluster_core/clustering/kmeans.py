"""K-means with faiss. Suffixes: N rows, Q dimensions, K clusters, B rows of a block."""

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from deepcluster_core.errors import FeatureError
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.progress import Progress, silent

Floats = NDArray[np.float32]

BLOCK_ROWS = 2**14
"""Rows assigned between two calls of the progress hook: a second on one core at k = 10,000."""

FAISS_SEEDS = 2**31 - 1
"""faiss takes seeds as int32, and negative ones mean the clock."""

# faiss adds the objective up in float32, where a sum of 24 M ones was measured to stop at 2^24. A
# faiss that ends early when the objective stands still would then stop after two iterations, so it
# must not. Versions without the option always run them all.
_RUN_ALL = (
    {"early_stop_threshold": -1.0}
    if hasattr(faiss.ClusteringParameters, "early_stop_threshold")
    else {}
)


@dataclass(frozen=True)
class KMeansFit:
    """Clusters found by `kmeans`; their ids are row numbers of `centroids_KQ`, never renumbered."""

    centroids_KQ: Floats
    cluster_N: NDArray[np.int32]
    distance_N: Floats
    """Euclidean, not squared, from each row to the centroid of its cluster."""
    counts_K: NDArray[np.int64]
    objective: tuple[float, ...]
    """Sum of squared distances at each iteration, before its update of the centroids; over the
    sample, if there was one. Good to see the trend by: faiss adds it up in float32, too low beyond
    some 10 M rows. `distance_N` has the distances after the last update."""

    @property
    def num_empty(self) -> int:
        """Clusters without a row."""
        return int((self.counts_K == 0).sum())


def kmeans(
    rows_NQ: Floats,
    *,
    k: int,
    iterations: int = 20,
    seed: int,
    max_points_per_centroid: int | None = None,
    gpu: bool = False,
    progress: Progress = silent,
) -> KMeansFit:
    """Find `k` clusters with faiss, the implementation of section 3.4, then assign every row.

    Centroids start at `k` different random rows. After each update of the centroids, faiss refills
    those without a row, as section 3.3 says: for each, a donor is drawn with a probability
    proportional to its rows minus one; the empty cluster takes the donor's centroid, and both move
    apart, one times 1 + 1/1024 in even and 1 - 1/1024 in odd coordinates, the other the reverse.
    The next assignment shares the donor's rows between the two. So neither the direction nor the
    size of the perturbation is random, and the donor's draw has a fixed seed of its own.

    Clusters can still end empty, and `KMeansFit.num_empty` counts them: the last refill may attract
    no row, and where many rows are equal there are fewer places than clusters.

    Args:
        rows_NQ: whitened features of length 1, finite.
        k: clusters.
        iterations: 20 in the authors' code; all of them run.
        seed: 0 to 2^63 - 1; decides the first centroids, and the sample if there is one.
        max_points_per_centroid: fit on a random sample of this many rows per cluster; None is all.
        gpu: compute on all visible CUDA devices.
        progress: hears of rows assigned, after the fit.

    Raises:
        FeatureError: `k` is below 2 or above the number of rows, or a row is not finite.
    """
    rows_NQ = np.ascontiguousarray(rows_NQ, dtype=np.float32)
    num_rows, width = rows_NQ.shape
    _check(rows_NQ, k=k)
    fit = faiss.Kmeans(
        width,
        k,
        niter=iterations,
        seed=seed % FAISS_SEEDS,
        gpu=gpu,
        **_RUN_ALL,
        min_points_per_centroid=1,  # a warning on stderr otherwise; `k` was checked above
        max_points_per_centroid=max_points_per_centroid or -(-num_rows // k),
    )
    fit.train(rows_NQ)
    assert fit.centroids is not None
    assert fit.obj is not None
    centroids_KQ = np.array(fit.centroids)
    cluster_N, distance_N = assign(rows_NQ, centroids_KQ, gpu=gpu, progress=progress)
    return KMeansFit(
        centroids_KQ=centroids_KQ,
        cluster_N=cluster_N,
        distance_N=distance_N,
        counts_K=cluster_counts(cluster_N, k),
        objective=tuple(float(value) for value in fit.obj),
    )


def assign(
    rows_NQ: Floats, centroids_KQ: Floats, *, gpu: bool = False, progress: Progress = silent
) -> tuple[NDArray[np.int32], Floats]:
    """Return cluster_N and distance_N: each row's nearest centroid, and how far it is (Euclidean).

    Of equally near centroids the one of lowest id wins; of equal centroids always. Rows that the
    centroids were not fitted on are welcome.

    Args:
        rows_NQ: projected by the same PCA as the rows that the centroids come from.
        centroids_KQ: float32.
        gpu: search on all visible CUDA devices. Near ties may then go another way than on the CPU.
        progress: hears of rows assigned, once a block.
    """
    # faiss expands |x - c|^2 into products: around a common centre, fewer digits cancel in them.
    centre_Q = centroids_KQ.mean(axis=0)
    centred_KQ = np.ascontiguousarray(centroids_KQ - centre_Q, dtype=np.float32)
    index = _index(centred_KQ, gpu=gpu)
    lowest_K = _lowest_equal(centroids_KQ)
    num_rows = len(rows_NQ)
    cluster_N, distance_N = np.empty(num_rows, np.int32), np.empty(num_rows, np.float32)
    for start in range(0, num_rows, BLOCK_ROWS):
        here = slice(start, min(start + BLOCK_ROWS, num_rows))
        rows_BQ = np.ascontiguousarray(rows_NQ[here] - centre_Q, dtype=np.float32)
        _, nearest_B1 = index.search(rows_BQ, 1)
        cluster_N[here] = lowest_K[nearest_B1[:, 0]]
        # Anew from the difference: the expansion has lost the digits of small distances.
        distance_N[here] = np.linalg.norm(rows_BQ - centred_KQ[cluster_N[here]], axis=1)
        progress(here.stop, num_rows)
    return cluster_N, distance_N


def _index(centroids_KQ: Floats, *, gpu: bool) -> faiss.Index:
    """Return an exact index of the centroids."""
    index: faiss.Index = faiss.IndexFlatL2(centroids_KQ.shape[1])
    if gpu:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(centroids_KQ)
    return index


def _lowest_equal(centroids_KQ: Floats) -> NDArray[np.int64]:
    """Return, for each centroid, the lowest id of those equal to it.

    A product of matrices rounds equal columns differently, depending on where in a tile they lie:
    faiss was seen to scatter rows over 300 equal centroids of 256 dimensions.
    """
    lowest: dict[bytes, int] = {}
    rows = (row_Q.tobytes() for row_Q in centroids_KQ + 0.0)  # + 0.0 makes -0.0 equal to 0.0
    return np.array([lowest.setdefault(row, cluster) for cluster, row in enumerate(rows)])


def _check(rows_NQ: Floats, *, k: int) -> None:
    """Refuse what faiss would refuse in words that do not name the recipe's key."""
    num_rows = len(rows_NQ)
    if k < 2:
        raise FeatureError(f"cluster.k is {k}, but clustering needs at least 2 clusters.")
    if k > num_rows:
        raise FeatureError(
            f"cluster.k is {k}, but there are only {num_rows} images to cluster.\n"
            f"  Fix:   set cluster.k to at most {num_rows}, or add images."
        )
    # A sum is finite only if its terms are, and needs no N x Q mask.
    with np.errstate(invalid="ignore"):  # inf - inf
        bad_N = ~np.isfinite(rows_NQ.sum(axis=1))
    if bad_N.any():
        raise FeatureError(
            f"{int(bad_N.sum())} of {num_rows} feature rows are not finite, the first at row "
            f"{int(bad_N.argmax())}.\n"
            "  Cause: training diverged.\n"
            "  Fix:   go on from an earlier checkpoint with a smaller learning rate."
        )
