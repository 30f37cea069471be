"""PCA and k-means on arrays. Shape suffixes: N rows, D features, Q components, K clusters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from deepcluster_core.clustering.fit import Fit
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.pca import Pca
from deepcluster_core.clustering.pca import fit_pca as fit_blocks
from deepcluster_core.clustering.rows import InMemory
from deepcluster_core.errors import ConfigError, FeatureError

Floats = NDArray[np.float32]
LARGEST_SEED = 2**63 - 1
BLOCK_ROWS = 4096
"""Rows that the PCA reads at a time."""


@dataclass(frozen=True)
class Projection:
    """A fitted PCA. A run applies its `transform` to features before it clusters them."""

    pca: Pca
    """The PCA as torch tensors, with further measures of the features."""

    @property
    def mean_D(self) -> Floats:  # noqa: N802
        """The mean feature, which is subtracted first, as float32."""
        return self.pca.mean_D.numpy()

    @property
    def components_QD(self) -> Floats:  # noqa: N802
        """Orthonormal rows, the direction of largest variance first, as float32."""
        return self.pca.components_QD.numpy()

    @property
    def eigenvalues_Q(self) -> Floats:  # noqa: N802
        """Variances along the components, as float32."""
        return self.pca.eigenvalues_Q.numpy()

    def transform(self, features_ND: ArrayLike) -> Floats:
        """Project features, whiten them, and scale each to length 1.

        Args:
            features_ND: shape (N, D), any float type.

        Returns:
            An array of shape (N, Q), float32. A feature that is projected to zero stays zero.

        Raises:
            FeatureError: the array is not two-dimensional, or its D differs from that of the fit.
        """
        rows_ND = _rows(features_ND)
        dim = rows_ND.shape[1]
        fitted_dim = len(self.pca.mean_D)
        if dim != fitted_dim:
            raise FeatureError(
                f"the features have {dim} values, but the PCA was fitted to {fitted_dim}."
            )
        return self.pca.whiten(torch.from_numpy(rows_ND)).numpy()


def fit_pca(features_ND: ArrayLike, dim: int = 256, *, whiten: bool = True) -> Projection:
    """Fit the PCA of a run's cluster stage to an array.

    Args:
        features_ND: shape (N, D), any float type, finite; N must exceed `dim`.
        dim: Q, the number of components to keep; 256 in the paper.
        whiten: make `transform` scale each component to variance 1.

    Raises:
        FeatureError: the features are not finite, or vary in fewer than `dim` directions.
    """
    rows_ND = torch.from_numpy(_rows(features_ND))
    # In blocks, because each is copied while its products are computed.
    blocks = rows_ND.split(BLOCK_ROWS)
    return Projection(fit_blocks(blocks, dim=dim, whitened=whiten))


def kmeans(
    rows_ND: ArrayLike,
    k: int,
    seed: int = 0,
    *,
    iterations: int = 20,
    spherical: bool = False,
    device: str = "cpu",
) -> Fit:
    """Group the rows of an array into `k` clusters, as a run's cluster stage does.

    Args:
        rows_ND: shape (N, D), any float type, finite. A run clusters what `Projection.transform`
            returns, but the rows can have any length.
        k: number of clusters, 2 to N.
        seed: 0 to 2**63 - 1. The same rows and seed give the same clusters on the same kind of
            processor.
        iterations: number of iterations; k-means does not stop earlier.
        spherical: keep the centroids at length 1.
        device: a torch device, such as `cpu`, `cuda` or `cuda:1`.

    Returns:
        An object with `centroids_KQ` (K, D) float32, `cluster_N` (N,) int32, `distance_N` (N,)
        float32 from each row to its centroid, and `num_empty`.

    Raises:
        ConfigError: the seed or the number of iterations is out of range.
        FeatureError: `k` is out of range, or a row is not finite.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"seed = {seed}: must be 0 to {LARGEST_SEED}.")
    if iterations < 1:
        raise ConfigError(f"iterations = {iterations}: must be at least 1.")
    rows = InMemory(_rows(rows_ND))
    algorithm = KMeans(k, iterations=iterations, spherical=spherical)
    return algorithm.fit(rows, seed=seed, device=device)


def _rows(given: ArrayLike) -> Floats:
    """Return an array as float32 (N, D) that torch can use without a copy.

    Raises:
        FeatureError: the array is not two-dimensional, or does not hold numbers.
    """
    array: NDArray[Any] = np.asarray(given)
    if array.ndim != 2:
        raise FeatureError(f"the array has shape {array.shape}; features (N, D) are needed.")
    try:
        # W makes it writeable, because torch warns about arrays that are not.
        return np.require(array, np.float32, ["C", "W"])
    except (TypeError, ValueError) as error:
        raise FeatureError(f"the array holds {array.dtype}; numbers are needed.") from error
