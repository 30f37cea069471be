"""Suffixes: N rows, D features, X eigenvalues."""

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcluster_core.clustering.pca import fit_pca
from deepcluster_core.clustering.spectrum import alpha, rankme


def reference_rankme(rows_ND: Tensor) -> float:
    """Equation 1 of arXiv:2210.02885, from the singular values themselves, with its epsilon."""
    singular_X = np.linalg.svd(rows_ND.double().numpy(), compute_uv=False)
    share_X = singular_X / np.abs(singular_X).sum() + 1e-7
    return float(np.exp(-(share_X * np.log(share_X)).sum()))


def reference_alpha(eigenvalues_X: np.ndarray) -> float:
    """The slope that NumPy fits; its weights apply to residuals before they are squared."""
    rank_F = np.arange(4, min(len(eigenvalues_X), 100) + 1)
    y_F = np.log(np.sort(eigenvalues_X)[::-1][3:100])
    return -float(np.polyfit(np.log(rank_F), y_F, 1, w=rank_F**-0.5)[0])


def rows(num: int, width: int, *, mean: float) -> Tensor:
    """Correlated rows whose deviations fall like a power of the rank, far from zero or not."""
    generator = torch.Generator().manual_seed(0)
    scale_D = torch.arange(1, width + 1) ** -0.5
    mix_DD = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return (torch.randn(num, width, generator=generator) * scale_D) @ mix_DD + mean


# With 300 rows of 40 features the covariance is computed, with 30 rows their inner products.
@pytest.mark.parametrize("num", [300, 30])
@pytest.mark.parametrize("mean", [0.0, 3.0, 100.0])
def test_fit_pca__rankme_and_alpha_equal_those_of_all_rows_at_once(num: int, mean: float) -> None:
    rows_ND = rows(num, 40, mean=mean)

    pca = fit_pca(rows_ND.split(7), dim=5, num_rows=num)

    # 1e-3: the epsilon adds up to 40 x 1e-7 x ln 1e7 = 6e-5, float32 products do the rest.
    assert pca.rankme == pytest.approx(reference_rankme(rows_ND), rel=1e-3)
    eigenvalues_X = np.linalg.eigvalsh(np.cov(rows_ND.double().numpy().T))
    varying_X = eigenvalues_X[-min(num - 1, 40) :]
    assert pca.alpha == pytest.approx(reference_alpha(varying_X), rel=1e-3)


def test_fit_pca__rankme_is_of_features_that_are_not_centred() -> None:
    rows_ND = rows(300, 40, mean=0.0)
    near, far = fit_pca([rows_ND], dim=5), fit_pca([rows_ND + 100.0], dim=5)

    assert near.rankme is not None
    assert far.rankme is not None
    assert near.rankme > 5 * far.rankme, "a mean far from zero is one dominant direction"
    # Centred measures do not see the mean, apart from the rounding of float32 rows.
    assert near.effective_rank == pytest.approx(far.effective_rank, rel=1e-3)
    assert near.alpha == pytest.approx(far.alpha, rel=1e-2)


def test_fit_pca__rounding_noise_of_many_features_does_not_count() -> None:
    # 600 features of rank 3: without a floor, hundreds of noisy singular values would add up.
    generator = torch.Generator().manual_seed(0)
    flat_ND = torch.randn(2000, 3, generator=generator) @ torch.randn(3, 600, generator=generator)

    pca = fit_pca([flat_ND], dim=3)

    assert pca.rankme is not None
    assert 2 < pca.rankme <= 3.001
    assert pca.alpha is None, "three eigenvalues have no slope from the fourth on"


def test_rankme__counts_equal_directions_and_is_1_for_one() -> None:
    assert rankme(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert rankme(torch.tensor([5.0, 0.0])) == pytest.approx(1)
    assert rankme(torch.zeros(4)) == 1


def test_rankme__weighs_singular_values_and_not_their_squares() -> None:
    # Singular values 3 and 1: shares 3/4 and 1/4.
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert rankme(torch.tensor([1.0, 9.0])) == pytest.approx(expected)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("width", [8, 300])
def test_alpha__finds_the_exponent_of_a_power_law(exponent: float, width: int) -> None:
    rank_X = torch.arange(1, width + 1, dtype=torch.float64)
    eigenvalues_X = 7 * rank_X**-exponent
    eigenvalues_X[0] *= 100  # the first ones are not fitted

    assert alpha(eigenvalues_X.flip(0)) == pytest.approx(exponent)


def test_alpha__weighs_ranks_by_their_inverse() -> None:
    generator = np.random.default_rng(0)
    eigenvalues_X = np.exp(generator.normal(size=60)) * np.arange(1, 61.0) ** -1
    found = alpha(torch.from_numpy(eigenvalues_X))
    assert found == pytest.approx(reference_alpha(eigenvalues_X))


def test_alpha__none_for_too_few_eigenvalues() -> None:
    assert alpha(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5])) is None
    assert alpha(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.4])) is not None
    assert alpha(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 1e-9]), noise=1e-8) is None
