"""Turn stored features into clusters: PCA, whitening, L2 and the clusterer of the recipe."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.features import Features
from deepcluster_core.clustering.fit import Clustering, Fit
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.clustering.rows import Projected
from deepcluster_core.context import Context


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
        context: seed, epoch and device.
        pca_dim: dimensions that the PCA keeps.
        whitened: whether each dimension is scaled to variance one.
        clip: keep fewer dimensions, instead of raising an error, if the features have a lower rank.

    Raises:
        FeatureError: the features cannot be reduced or clustered like this.
    """
    pca = fit_pca(
        map(torch.from_numpy, features.blocks()),
        dim=pca_dim,
        whitened=whitened,
        clip=clip,
        device=context.device,
    )
    # The features are read a second time, now through the projection.
    rows = _projected(features, pca, context.device)
    # The seed is named "kmeans" for every algorithm; a different name would change the results.
    seed = seeding.derive(context.seed, context.epoch or 0, "cluster", "kmeans")
    fit = clusterer.fit(rows, seed=seed, device=context.device, progress=context.progress)
    return Grouping(pca, fit)


def _projected(features: Features, pca: Pca, device: str) -> Projected:
    """Return the rows to cluster, which are projected, whitened and normalised when read."""
    on_device = pca.to(device)  # moved once rather than for each block of rows

    def project(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
        raw = torch.from_numpy(raw_BD).to(device)
        return on_device.whiten(raw).cpu().numpy()

    return Projected(features.num_images, len(pca.components_QD), features.blocks, project)
