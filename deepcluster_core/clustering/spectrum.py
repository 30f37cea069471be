"""Measures of features that need no labels, from the eigenvalues of their second moments.

Suffixes: X eigenvalues, F eigenvalues of the fitted range.
"""

from typing import TypedDict

import torch
from torch import Tensor

FIRST_FITTED, LAST_FITTED = 4, 100
"""First and last rank of the eigenvalues that `alpha` fits.

The paper on alpha-ReQ gives no range; these are the ranks in its authors' code. The first
eigenvalues rarely follow the power law of the others, and the last ones are noise.
"""
LEAST_FITTED = 3
"""Fewest eigenvalues that `alpha` fits. Two always lie on a line. Our choice."""


class Measures(TypedDict):
    """What a PCA measures of features besides the projection; see the fields of `Pca`."""

    effective_rank: float
    dead_features: float
    rankme: float
    alpha: float | None


def rankme(eigenvalues_X: Tensor, *, noise: float = 0.0) -> float:
    """Return RankMe, 1 to X: exp of the entropy of the singular values of the features.

    Singular values are those of the features as they are, not centred, divided by their sum.
    Source: Garrido et al. 2023 (arXiv:2210.02885), equation 1, without its epsilon of 1e-7, which
    only keeps the logarithm finite.

    Args:
        eigenvalues_X: eigenvalues of the features' second moment (Zᵀ Z or Z Zᵀ, divided by any
            number), float64, in any order. Singular values are their square roots.
        noise: eigenvalues up to this one are rounding noise and count as zero.
    """
    eigenvalues_X = eigenvalues_X.double()
    # Features with a mean far from zero have one huge eigenvalue, beside which solvers cannot
    # resolve the smallest ones in float64 either.
    resolution = torch.finfo(torch.float64).eps * len(eigenvalues_X) * float(eigenvalues_X.max())
    floor = max(noise, resolution, 0.0)
    return entropic_rank(eigenvalues_X[eigenvalues_X > floor].sqrt())


def entropic_rank(values_X: Tensor) -> float:
    """Return exp of the entropy of values divided by their sum, 1 to X; 1 if all of them are zero.

    Args:
        values_X: values of at least zero, for example eigenvalues, float64.
    """
    total = values_X.sum()
    if total == 0:
        return 1.0
    return float(torch.special.entr(values_X / total).sum().exp())


def alpha(eigenvalues_X: Tensor, *, noise: float = 0.0) -> float | None:
    """Return alpha, for eigenvalues that decay like rank to the power -alpha.

    Alpha is minus the slope, by least squares, of the logarithm of the eigenvalues against that of
    their ranks, from `FIRST_FITTED` to `LAST_FITTED` or the last one above the noise. A rank weighs
    its inverse, so that all sections of the logarithmic axis count equally, as in Stringer et al.
    2019, whose estimator alpha-ReQ (Agrawal et al., NeurIPS 2022) uses. With a large alpha, few
    directions hold the variance; with a small one, it is spread over many.

    Args:
        eigenvalues_X: eigenvalues of the covariance, float64, in any order.
        noise: eigenvalues up to this one are rounding noise and are left out.

    Returns:
        Alpha; None if there are fewer than `LEAST_FITTED` eigenvalues to fit.
    """
    known_X = eigenvalues_X[eigenvalues_X > max(noise, 0.0)].double()
    descending_X = known_X.sort(descending=True).values
    fitted_F = descending_X[FIRST_FITTED - 1 : LAST_FITTED]
    if len(fitted_F) < LEAST_FITTED:
        return None
    rank_F = torch.arange(len(fitted_F), dtype=torch.float64, device=fitted_F.device) + FIRST_FITTED
    weight_F = 1 / rank_F
    weight_F /= weight_F.sum()
    x_F = rank_F.log()
    y_F = fitted_F.log()
    # The slope of a weighted regression: the covariance of x and y by the variance of x.
    centred_F = x_F - weight_F @ x_F
    slope = (weight_F * centred_F) @ y_F / ((weight_F * centred_F) @ centred_F)
    return -float(slope)
