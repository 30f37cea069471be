"""What is known of clusters without labels: how tight, how far apart, how long together.

Suffixes: N images, K clusters, Q dimensions, P clusters that have images, B block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.metrics import cluster_counts

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]

LEAST_IMAGES = 5
"""Clusters with fewer images are not named as the tightest or the least stable. Our choice."""
BLOCK_ROWS = 1024
"""Centroids that are compared with all others at once."""


@dataclass(frozen=True)
class ClusterMeasures:
    """Measures of each cluster; NaN, or -1, for clusters without images."""

    size_K: Ints
    spread_K: Floats
    """Mean distance of a cluster's images to its centroid, in the space that was clustered."""
    twin_K: Ints
    """The other cluster with the nearest centroid; -1 if there is none."""
    gap_K: Floats
    """Distance between the two centroids."""
    stays_K: Floats | None = None
    """Mean share, 0 to 1, of the last epochs in which a cluster's images were with it."""
    stayed_epochs: int = 0
    """Number of these epochs."""

    @property
    def spread(self) -> float:
        """Mean distance of an image to its centroid."""
        has_images_K = self.size_K > 0
        return float(np.average(self.spread_K[has_images_K], weights=self.size_K[has_images_K]))

    @property
    def gap(self) -> float:
        """Median distance of a centroid to the nearest other one."""
        return float(np.nanmedian(self.gap_K))

    def twins(self, count: int) -> list[tuple[int, int]]:
        """Return the pairs of clusters that are each other's nearest, the nearest pair first."""
        pairs: list[tuple[float, int, int]] = []
        for first, second in enumerate(self.twin_K.tolist()):
            if second > first and self.twin_K[second] == first:
                pairs.append((float(self.gap_K[first]), first, second))
        return [(first, second) for _, first, second in sorted(pairs)[:count]]

    def least_stable(self, count: int) -> list[int]:
        """Return clusters whose images have stayed with them the least, without tiny clusters."""
        if self.stays_K is None:
            return []
        return _lowest(np.where(self.size_K >= LEAST_IMAGES, self.stays_K, np.nan), count)

    def loosest(self, count: int) -> list[int]:
        """Return clusters whose images lie farthest from the centroid, without tiny clusters."""
        return _lowest(np.where(self.size_K >= LEAST_IMAGES, -self.spread_K, np.nan), count)


def _lowest(value_K: Floats, count: int) -> list[int]:
    order_K = np.argsort(value_K, kind="stable")  # NaN comes last
    known = int((~np.isnan(value_K)).sum())
    return order_K[: min(count, known)].tolist()


def measure_clusters(
    cluster_N: Ints,
    distance_N: Floats,
    centroids_KQ: NDArray[np.float32],
    *,
    stayed_N: Ints | None = None,
    stayed_epochs: int = 0,
) -> ClusterMeasures:
    """Return the measures of all clusters.

    Args:
        cluster_N: clusters of the images.
        distance_N: distances of the images to their centroids.
        centroids_KQ: the centroids.
        stayed_N: number of earlier epochs in which each image was with its cluster.
        stayed_epochs: number of these epochs.
    """
    k = len(centroids_KQ)
    size_K = cluster_counts(cluster_N, k)
    twin_K, gap_K = _nearest_centroids(centroids_KQ, np.flatnonzero(size_K))
    stays_K = None
    if stayed_N is not None and stayed_epochs:
        stays_K = _means(cluster_N, stayed_N / stayed_epochs, size_K)
    return ClusterMeasures(
        size_K=size_K,
        spread_K=_means(cluster_N, distance_N, size_K),
        twin_K=twin_K,
        gap_K=gap_K,
        stays_K=stays_K,
        stayed_epochs=stayed_epochs,
    )


def _means(cluster_N: Ints, value_N: Floats, size_K: Ints) -> Floats:
    sum_K = np.bincount(cluster_N, weights=value_N, minlength=len(size_K))
    return np.divide(sum_K, size_K, out=np.full(len(size_K), np.nan), where=size_K > 0)


def _nearest_centroids(centroids_KQ: NDArray[np.float32], populated_P: Ints) -> tuple[Ints, Floats]:
    twin_K = np.full(len(centroids_KQ), -1)
    gap_K = np.full(len(centroids_KQ), np.nan)
    if len(populated_P) < 2:
        return twin_K, gap_K
    rows_PQ = centroids_KQ[populated_P].astype(np.float64)
    squared_P = (rows_PQ**2).sum(axis=1)
    for start in range(0, len(rows_PQ), BLOCK_ROWS):
        here = slice(start, start + BLOCK_ROWS)
        distance_BP = squared_P[here, None] + squared_P - 2 * rows_PQ[here] @ rows_PQ.T
        block_B = np.arange(len(distance_BP))
        distance_BP[block_B, start + block_B] = np.inf
        nearest_B = distance_BP.argmin(axis=1)
        own_B = populated_P[here]
        twin_K[own_B] = populated_P[nearest_B]
        gap_K[own_B] = np.linalg.norm(rows_PQ[here] - rows_PQ[nearest_B], axis=1)
    return twin_K, gap_K


@dataclass(frozen=True)
class ClassTable:
    """Numbers of images for each cluster and each of the most frequent classes."""

    classes: Sequence[str]
    has_others: bool
    """Whether the last column holds all other classes."""
    rows: Sequence[tuple[int, Sequence[int]]]
    """Cluster and its numbers of images."""


def class_table(
    cluster_N: Ints,
    class_N: Ints,
    class_names: Sequence[str],
    *,
    clusters: Sequence[int],
    columns: Sequence[int],
) -> ClassTable:
    """Return the numbers of images of some clusters in some classes, and in all others together.

    Args:
        cluster_N: clusters of the images.
        class_N: classes of the images, -1 if unknown, which are not counted.
        class_names: names of the classes.
        clusters: the rows.
        columns: the classes that have a column.
    """
    num_columns = len(columns) + 1
    column_of_class = np.full(len(class_names), len(columns))
    column_of_class[[*columns]] = np.arange(len(columns))
    row_of_cluster = np.full(int(cluster_N.max()) + 1, -1)
    row_of_cluster[[*clusters]] = np.arange(len(clusters))
    row_N = row_of_cluster[cluster_N]
    is_counted_N = (class_N >= 0) & (row_N >= 0)
    cell_N = row_N[is_counted_N] * num_columns + column_of_class[class_N[is_counted_N]]
    counts = np.bincount(cell_N, minlength=len(clusters) * num_columns)
    table = counts.reshape(len(clusters), num_columns)
    has_others = bool(table[:, -1].any())
    shown = table if has_others else table[:, :-1]
    rows = list(zip(clusters, shown.tolist(), strict=True))
    return ClassTable([class_names[number] for number in columns], has_others, rows)
