"""What every clustering takes and gives. Suffixes: N rows, Q dimensions, K clusters, B block."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from deepcluster_core.clustering.rows import Floats, Rows
from deepcluster_core.errors import FeatureError
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.progress import Progress

BLOCK_ROWS = 2**14
"""Rows in work at once, where all of them would need another array as big as theirs, and between
two calls of the progress hook: a second on one core at k = 10,000."""


@dataclass(frozen=True)
class Fit:
    """Clusters that were found; their ids are row numbers of `centroids_KQ`, never renumbered."""

    centroids_KQ: Floats
    """What new images are assigned by, to the nearest."""
    cluster_N: NDArray[np.int32]
    distance_N: Floats
    """Euclidean, not squared, from each row to the centroid of its cluster."""
    fitted_on: int
    """Rows that the clusters were learnt from: all, or a sample."""
    objective: tuple[float, ...] = ()
    """Sum of squared distances at each iteration, before its update of the centroids; over the
    sample, if there was one. Empty where the algorithm has no such thing."""

    @property
    def num_clusters(self) -> int:
        """K, empty ones counted."""
        return len(self.centroids_KQ)

    @property
    def num_empty(self) -> int:
        """Clusters without a row."""
        return int((cluster_counts(self.cluster_N, self.num_clusters) == 0).sum())


class Clustering(Protocol):
    """A way to group rows, with its settings; chosen by `cluster.algorithm` of the recipe."""

    def fit(self, rows: Rows, *, seed: int, device: str, progress: Progress) -> Fit:
        """Group all rows.

        Args:
            rows: whitened features of length 1, finite.
            seed: 0 to 2^63 - 1; all that is random comes from it.
            device: a torch device; algorithms that know only the CPU stay there.
            progress: hears of rows that are done.

        Raises:
            FeatureError: the rows cannot be grouped as asked.
        """
        ...


def fit_of_members(
    rows_NQ: Floats, cluster_N: NDArray[np.int32], *, centroids_KQ: Floats | None = None
) -> Fit:
    """Return the fit that says which row is in which cluster, and no more.

    Args:
        rows_NQ: all rows.
        cluster_N: ids from 0.
        centroids_KQ: None: the means of the members; every id up to the highest then has some.

    Raises:
        FeatureError: all rows are in one cluster.
    """
    if cluster_N.min() == cluster_N.max():
        raise FeatureError(
            f"cluster.algorithm: all {len(cluster_N)} images came into one cluster, from which "
            "nothing can be learnt.\n"
            "  Fix:   change the algorithm's settings, or set cluster.algorithm to kmeans."
        )
    if centroids_KQ is None:
        centroids_KQ = means_of(rows_NQ, cluster_N, k=int(cluster_N.max()) + 1)
    distance_N = distances(rows_NQ, centroids_KQ, cluster_N)
    return Fit(centroids_KQ, cluster_N, distance_N, fitted_on=len(rows_NQ))


def means_of(rows_NQ: Floats, cluster_N: NDArray[np.int32], *, k: int) -> Floats:
    """Return centroids_KQ, the means of the rows of each cluster; zeros where it has none."""
    sum_KQ = np.zeros((k, rows_NQ.shape[1]))
    for start in range(0, len(rows_NQ), BLOCK_ROWS):
        cluster_B = cluster_N[start : start + BLOCK_ROWS]
        ones_B, ends_B = np.ones(len(cluster_B)), np.arange(len(cluster_B) + 1)
        member_BK = scipy.sparse.csr_array((ones_B, cluster_B, ends_B), shape=(len(cluster_B), k))
        sum_KQ += member_BK.T @ rows_NQ[start : start + BLOCK_ROWS].astype(np.float64)
    counts_K = np.maximum(cluster_counts(cluster_N, k), 1)
    return (sum_KQ / counts_K[:, None]).astype(np.float32)


def distances(rows_NQ: Floats, centroids_KQ: Floats, cluster_N: NDArray[np.int32]) -> Floats:
    """Return distance_N, Euclidean, from each row to the centroid of its cluster."""
    distance_N = np.empty(len(rows_NQ), np.float32)
    for start in range(0, len(rows_NQ), BLOCK_ROWS):
        here = slice(start, start + BLOCK_ROWS)
        # From the difference: expanded into products, small distances would lose their digits.
        distance_N[here] = np.linalg.norm(rows_NQ[here] - centroids_KQ[cluster_N[here]], axis=1)
    return distance_N
