"""Measures of features that need no labels, but several views of each image.

Suffixes: N images, V views of each, D dimensions, M means of images.
"""

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.clustering.spectrum import entropic_rank

BLOCK_IMAGES = 256
"""Images whose features are computed with in float64 at once."""


def lidar(feature_NVD: NDArray[np.float32], *, delta: float) -> float:
    """Return LiDAR, 1 to D: how many directions tell images apart rather than views of an image.

    exp of the entropy of the eigenvalues of S_w^-1/2 S_b S_w^-1/2, divided by their sum, where S_b
    is the covariance of the images' mean features, and S_w that of the views about these means,
    plus delta on the diagonal. Source: Thilak et al. 2024 (arXiv:2312.04000), equations 1 and 2.

    The N mean features span at most N - 1 directions, so results for N up to D are bounded by N and
    not by the network; compare only results with equal N, V and D.

    Args:
        feature_NVD: features of at least two views of at least two images.
        delta: added to the variances of views, in squared units of the features; 1e-4 in the paper.
    """
    num_images, num_views, width = feature_NVD.shape
    mean_ND = feature_NVD.mean(axis=1, dtype=np.float64)
    within_DD = np.zeros((width, width))
    for start in range(0, num_images, BLOCK_IMAGES):
        own = slice(start, start + BLOCK_IMAGES)
        deviation_NVD = feature_NVD[own] - mean_ND[own, None]
        deviation_RD = deviation_NVD.reshape(-1, width)
        within_DD += deviation_RD.T @ deviation_RD
    within_DD /= num_images * num_views
    within_DD[np.diag_indices(width)] += delta
    centred_ND = (mean_ND - mean_ND.mean(axis=0)) / np.sqrt(num_images)
    # S_b is the product of centred_ND with itself, so the eigenvalues are the squared singular
    # values of centred_ND S_w^-1/2. Any root of S_w will do; the triangular one is the cheapest.
    root_DD = scipy.linalg.cholesky(within_DD, lower=True, overwrite_a=True)
    scaled_DN = scipy.linalg.solve_triangular(root_DD, centred_ND.T, lower=True)
    singular = scipy.linalg.svdvals(scaled_DN, overwrite_a=True)
    return entropic_rank(torch.from_numpy(singular).square())


def alignment(unit_NVD: Tensor) -> float:
    """Return the mean squared distance between two views of an image, 0 to 4; 0 is perfect.

    Source: Wang and Isola 2020 (arXiv:2005.10242), with exponent 2, over all pairs of views.

    Args:
        unit_NVD: features of length one, at least two views of each image.
    """
    num_views = unit_NVD.shape[1]
    unit_NVD = unit_NVD.double()
    deviation_NVD = unit_NVD - unit_NVD.mean(dim=1, keepdim=True)
    # The squared distances of all pairs add up to V times those to the mean.
    spread_N = deviation_NVD.square().sum(dim=(1, 2))
    return float(2 * spread_N.mean() / (num_views - 1))


def uniformity(unit_ND: Tensor) -> float:
    """Return the logarithm of the mean of exp(-2 |x - y|²) over pairs of images, -8 to 0.

    The lower, the more evenly the features cover the sphere. Source: Wang and Isola 2020
    (arXiv:2005.10242), with t = 2.

    Args:
        unit_ND: features of length one of at least two images, one view of each.
    """
    distance_P = torch.pdist(unit_ND.double())
    exponent_P = -2 * distance_P.square()
    return float(exponent_P.logsumexp(dim=0) - np.log(len(distance_P)))
