"""The second nearest cluster of each image.

Suffixes: N images, B images of a block, D dimensions of a feature, Q of a clustered row, K
clusters, H clusterings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.tables import read_clustering
from deepcluster_core.clustering.assign import Assigner
from deepcluster_core.errors import ConfigError, FeatureError

VALUES_AT_ONCE = 1 << 24
"""Cosines of rows and centroids that are held at once, 64 MiB."""


@dataclass(frozen=True)
class SecondClusters:
    """A second cluster of each image in each clustering."""

    cluster_HN: NDArray[np.int32]
    """The cluster whose centroid is the nearest after that of the image's own cluster."""
    share_HN: NDArray[np.float16]
    """Its share in the softmax of both cosines, 0 to 0.5."""


def find_second_clusters(
    labels: Path,
    features: Path | None,
    cluster_HN: NDArray[np.int32],
    *,
    temperature: float,
    device: str,
) -> SecondClusters:
    """Return the second clusters of spherical k-means, in the space in which it has clustered.

    Args:
        labels: folder of the labels artifact.
        features: folder of the artifact with the features that were clustered.
        cluster_HN: the clusters in that artifact.
        temperature: divides the cosines.
        device: a torch device.

    Raises:
        ConfigError: there are no features.
        FeatureError: the features are not those of these clusters.
    """
    if features is None:
        raise ConfigError(
            "train.prototypes.soft: needs the features that were clustered.\n"
            "  Fix: give the stage features=FOLDER, the artifact that the cluster stage read."
        )
    # Prototypes follow from whitened principal components, or from none.
    assigner = Assigner.of(read_clustering(labels), whitened=True, device=device)
    stored = Features(features)
    found = (stored.num_images, stored.view_dim)
    expected = (cluster_HN.shape[1], len(assigner.pca.mean_D))
    if found != expected:
        raise FeatureError(
            f"{stored.path}: holds {found[0]} images with {found[1]} values, but "
            f"train.prototypes.soft needs the {expected[0]} with {expected[1]} that were "
            f"clustered.\n"
            f"  Fix: give the stage the features that the labels in {labels} were made from."
        )
    pca = assigner.pca.to(device)
    centroids = [torch.from_numpy(centroids_KQ).to(device) for centroids_KQ in assigner.centroids]
    second = SecondClusters(np.empty_like(cluster_HN), np.empty(cluster_HN.shape, np.float16))
    start = 0
    for block_BD in _blocks(stored, max(map(len, centroids))):
        here = slice(start, start + len(block_BD))
        rows_BQ = pca.whiten(torch.from_numpy(block_BD).to(device))
        for number, centroids_KQ in enumerate(centroids):
            own_B = torch.from_numpy(cluster_HN[number, here]).long().to(device)
            second_B, share_B = _second(rows_BQ @ centroids_KQ.T / temperature, own_B)
            second.cluster_HN[number, here] = second_B.cpu().numpy()
            second.share_HN[number, here] = share_B.cpu().numpy()
        start = here.stop
    return second


def _blocks(stored: Features, k: int) -> Iterator[NDArray[np.floating]]:
    rows_at_once = max(1, VALUES_AT_ONCE // k)
    for block_BD in stored.blocks(view=0):
        for start in range(0, len(block_BD), rows_at_once):
            yield block_BD[start : start + rows_at_once]


def _second(logits_BK: Tensor, own_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest logit's cluster besides the own one, and its share of both."""
    own_B1 = own_B[:, None]
    first_B = logits_BK.gather(1, own_B1).squeeze(1)
    second_B, cluster_B = logits_BK.scatter(1, own_B1, -torch.inf).max(dim=1)
    # With `cluster.least_size`, an image may be in a cluster that is not its nearest.
    return cluster_B, torch.sigmoid(second_B - first_B).clamp(max=0.5)
