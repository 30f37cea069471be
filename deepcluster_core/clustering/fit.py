"""The interface of all clusterings. Suffixes: N rows, Q dimensions, K clusters, B block."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deepcluster_core.clustering.exact import ClusterSums, Grid
from deepcluster_core.clustering.rows import ClusterIds, Floats, Rows, largest_of
from deepcluster_core.errors import FeatureError
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.progress import Progress
from deepcluster_core.ranks import Ranks

BLOCK_ROWS = 2**14
"""Rows processed at once, to avoid temporary arrays as large as all rows."""


@dataclass(frozen=True)
class Fit:
    """The result of a clustering. Cluster ids are row numbers of `centroids_KQ`."""

    centroids_KQ: Floats
    """Centroids; new images are assigned to the nearest."""
    cluster_N: ClusterIds
    """The cluster of each row. If several ranks computed them, only the first one has them."""
    distance_N: Floats
    """Euclidean distance, not squared, from each row to the centroid of its cluster; like
    `cluster_N`, on the first rank only."""
    fitted_on: int
    """Number of rows that the clusters were learnt from: all, or a sample."""
    objective: tuple[float, ...] = ()
    """Sum of squared distances at each iteration, before the centroids are updated.

    If a sample was used, the sum is over the sample. Empty for algorithms without an objective.
    """

    @property
    def num_clusters(self) -> int:
        """The number of clusters, including empty ones."""
        return len(self.centroids_KQ)

    @property
    def num_empty(self) -> int:
        """The number of clusters without a row."""
        counts_K = cluster_counts(self.cluster_N, self.num_clusters)
        return int((counts_K == 0).sum())


class Clustering(Protocol):
    """A clustering algorithm with its settings, chosen by `cluster.algorithm` in the recipe."""

    def fit(self, rows: Rows, *, seed: int, device: str, progress: Progress, ranks: Ranks) -> Fit:
        """Cluster all rows.

        Args:
            rows: whitened features of length 1, finite.
            seed: 0 to 2^63 - 1; the only source of randomness.
            device: a torch device; algorithms without GPU support use the CPU.
            progress: receives the number of completed rows.
            ranks: the processes that compute together: a single one, unless
                `Clusterer.runs_on_many_ranks` of the registry is true.

        Raises:
            FeatureError: the rows cannot be clustered with these settings.
        """
        ...


def fit_of_members(
    rows_NQ: Floats, cluster_N: ClusterIds, *, centroids_KQ: Floats | None = None
) -> Fit:
    """Return a fit for given cluster memberships.

    Args:
        rows_NQ: all rows.
        cluster_N: cluster ids from 0.
        centroids_KQ: the centroids; None for the means of the members, which requires that no id
            up to the highest is unused.

    Raises:
        FeatureError: all rows are in one cluster.
    """
    if cluster_N.min() == cluster_N.max():
        raise FeatureError(
            f"cluster.algorithm: all {len(cluster_N)} images are in one cluster, from which "
            "nothing can be learnt.\n"
            "  Fix:   change the algorithm's settings, or set cluster.algorithm to kmeans."
        )
    if centroids_KQ is None:
        num_clusters = int(cluster_N.max()) + 1
        centroids_KQ = means_of(rows_NQ, cluster_N, k=num_clusters)
    distance_N = distances(rows_NQ, centroids_KQ, cluster_N)
    return Fit(centroids_KQ, cluster_N, distance_N, fitted_on=len(rows_NQ))


def means_of(rows_NQ: Floats, cluster_N: ClusterIds, *, k: int) -> Floats:
    """Return centroids_KQ, the mean of the rows of each cluster; zeros for an empty cluster."""
    grid = Grid.of(largest_of(rows_NQ), len(rows_NQ))
    sums = ClusterSums(k, rows_NQ.shape[1], grid)
    sums.add(rows_NQ, cluster_N)
    return sums.means()[0]


def distances(rows_NQ: Floats, centroids_KQ: Floats, cluster_N: ClusterIds) -> Floats:
    """Return distance_N, the Euclidean distance of each row to the centroid of its cluster."""
    distance_N = np.empty(len(rows_NQ), np.float32)
    for start in range(0, len(rows_NQ), BLOCK_ROWS):
        here = slice(start, start + BLOCK_ROWS)
        own_centroid_BQ = centroids_KQ[cluster_N[here]]
        # Computed from the difference: expanding it into products would lose small distances.
        away_BQ = rows_NQ[here] - own_centroid_BQ
        distance_N[here] = np.linalg.norm(away_BQ, axis=1)
    return distance_N
