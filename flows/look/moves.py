"""The same images at two epochs: which moved from one cluster to another.

Suffixes: N images, F flows.
"""

from dataclasses import dataclass

import numpy as np

from deepcluster_core.clustering.stability import same_cluster
from flows.look.contents import EpochContents

SAMPLES = 6
"""Images shown of each flow."""


@dataclass(frozen=True)
class Flow:
    """Images that were in one cluster and are in another, which is not its successor."""

    before: int
    after: int
    images: int
    share: float
    """Fraction of the images of `before`, 0 to 1."""
    samples: list[int]


@dataclass(frozen=True)
class Moves:
    """What moved between two epochs."""

    stayed: int
    """Images whose clusters are matched with each other."""
    total: int
    flows: list[Flow]
    """The largest first."""


def moves(before: EpochContents, after: EpochContents) -> Moves:
    """Return which images moved. Clusters are matched by their images, as ids change each epoch."""
    before_N, after_N = before.labels.cluster_N, after.labels.cluster_N
    moved_N = np.flatnonzero(~same_cluster(before_N, after_N))
    pair_N = before_N[moved_N].astype(np.int64) * after.num_clusters + after_N[moved_N]
    order_N = np.argsort(pair_N, kind="stable")
    pair_F, start_F, count_F = np.unique(pair_N[order_N], return_index=True, return_counts=True)
    flows: list[Flow] = []
    for place in np.argsort(-count_F, kind="stable").tolist():
        cluster_before, cluster_after = divmod(int(pair_F[place]), after.num_clusters)
        first, count = int(start_F[place]), int(count_F[place])
        image_ids = moved_N[order_N[first : first + min(count, SAMPLES)]].tolist()
        share = count / int(before.sizes[cluster_before])
        flows.append(Flow(cluster_before, cluster_after, count, share, image_ids))
    return Moves(len(before_N) - len(moved_N), len(before_N), flows)


def images_of_flow(
    before: EpochContents, after: EpochContents, cluster_before: int, cluster_after: int
) -> list[int]:
    """Return the images that were in one cluster and are in another, in the order of image_id.

    Raises:
        UnknownPageError: one of the epochs does not have the cluster.
    """
    before.check_cluster(cluster_before)
    after.check_cluster(cluster_after)
    is_before_N = before.labels.cluster_N == cluster_before
    is_after_N = after.labels.cluster_N == cluster_after
    return np.flatnonzero(is_before_N & is_after_N).tolist()
