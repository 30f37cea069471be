"""Turn stored features into clusters: PCA, whitening, L2 and the clusterer of the recipe."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.features import Features
from deepcluster_core.clustering.fit import Clustering, Fit
from deepcluster_core.clustering.moments import unit_rows
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.clustering.rows import Projected
from deepcluster_core.context import Context
from deepcluster_core.ranks import own_rows

BLOCK_BYTES = 64 << 20
"""Bytes of features, as float32, that the PCA reads at once, if units are smaller."""


@dataclass(frozen=True)
class Grouping:
    """The clusters of all images, and the projection to the space in which they were found."""

    pca: Pca
    fit: Fit

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays needed to assign new images, by their names in the artifact."""
        return {
            "pca_mean": self.pca.mean_D.numpy(),
            "pca_components": self.pca.components_QD.numpy(),
            "pca_eigenvalues": self.pca.eigenvalues_Q.numpy(),
            "centroids": self.fit.centroids_KQ,
        }


def group(
    features: Features,
    clusterer: Clustering,
    context: Context,
    *,
    pca_dim: int,
    whitened: bool,
    clip: bool,
) -> Grouping:
    """Reduce the features of all images and cluster them.

    Args:
        features: the features of all images.
        clusterer: the clustering algorithm.
        context: seed, epoch, device, ranks and the folder for intermediate results.
        pca_dim: dimensions that the PCA keeps.
        whitened: whether each dimension is scaled to variance one.
        clip: keep fewer dimensions, instead of raising an error, if the features have a lower rank.

    Raises:
        FeatureError: the features cannot be reduced or clustered like this.
    """
    unit = unit_rows(features.dim)
    own = own_rows(features.num_images, context.ranks, unit=unit)
    # As many whole units as are fast to read at once.
    block_rows = unit * max(1, BLOCK_BYTES // (4 * unit * features.dim))
    pca = fit_pca(
        map(torch.from_numpy, features.blocks(rows=own, block_rows=block_rows)),
        dim=pca_dim,
        whitened=whitened,
        clip=clip,
        num_rows=features.num_images,
        ranks=context.ranks,
        device=context.device,
    )
    # The features are read a second time, now through the projection.
    rows = _projected(features, pca, context)
    # The seed is named "kmeans" for every algorithm; a different name would change the results.
    seed = seeding.derive(context.seed, context.epoch or 0, "cluster", "kmeans")
    fit = clusterer.fit(
        rows,
        seed=seed,
        device=context.device,
        progress=context.progress,
        ranks=context.ranks,
    )
    return Grouping(pca, fit)


def _projected(features: Features, pca: Pca, context: Context) -> Projected:
    """Return the rows to cluster, which are projected, whitened and normalised when read."""
    device = context.device
    on_device = pca.to(device)  # moved once rather than for each block of rows

    def read(rows: range) -> Iterator[NDArray[np.floating]]:
        return features.blocks(rows=rows)

    def project(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
        raw = torch.from_numpy(raw_BD).to(device)
        return on_device.whiten(raw).cpu().numpy()

    width = len(pca.components_QD)
    return Projected(features.num_images, width, read, project, context.scratch)
