"""Suffixes: N rows, D features, Q kept."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from deepcluster_core.clustering import moments
from deepcluster_core.clustering.moments import Moments, Origin, unit_rows
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.errors import FeatureError
from deepcluster_core.ranks import Ranks, own_rows
from tests.support.ranks import on_ranks


def features(num: int = 400, width: int = 20, *, mean: float = 5.0, seed: int = 0) -> Tensor:
    """Correlated rows with standard deviations from 1 down to 0.1, away from zero."""
    generator = torch.Generator().manual_seed(seed)
    rows_ND = torch.randn(num, width, generator=generator) * torch.logspace(0, -1, width)
    mix_DD = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return rows_ND @ mix_DD + mean


def fit_on_ranks(size: int, rows_ND: Tensor, **settings: Any) -> list[Pca]:  # noqa: ANN401
    """Fit on several ranks, each with its own units of the rows, in blocks of odd sizes."""

    def fit(ranks: Ranks) -> Pca:
        own = own_rows(len(rows_ND), ranks, unit=unit_rows(rows_ND.shape[1]))
        blocks = rows_ND[own.start : own.stop].split(1000 + ranks.rank)
        return fit_pca(blocks, num_rows=len(rows_ND), ranks=ranks, **settings)

    return on_ranks(size, fit)


def assert_equal(one: Pca, other: Pca) -> None:
    """Assert that two projections have the same bytes."""
    assert torch.equal(one.mean_D, other.mean_D)
    assert torch.equal(one.eigenvalues_Q, other.eigenvalues_Q)
    assert torch.equal(one.components_QD, other.components_QD)
    assert one.effective_rank == other.effective_rank
    assert one.dead_features == other.dead_features
    assert (one.rankme, one.alpha) == (other.rankme, other.alpha)


def assert_same(one: Pca, other: Pca, *, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one.mean_D, other.mean_D, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one.eigenvalues_Q, other.eigenvalues_Q, rtol=tolerance, atol=0)
    torch.testing.assert_close(one.components_QD, other.components_QD, rtol=0, atol=10 * tolerance)
    assert one.effective_rank == pytest.approx(other.effective_rank, rel=tolerance)


# 1000 stands for features whose mean dwarfs their spread: float32 squares alone would lose it.
@pytest.mark.parametrize("mean", [0.0, 5.0, 1000.0])
def test_fit_pca__equals_scikit_learn(mean: float) -> None:
    rows_ND = features(mean=mean)
    reference = PCA(n_components=6, whiten=True).fit(rows_ND.double().numpy())

    pca = fit_pca(rows_ND.split(100), dim=6)

    # 1e-3: at a mean of 1000 float32 features have errors of 3e-5, divided by a spread of 0.4.
    tolerance = 1e-3 if mean == 1000.0 else 1e-5
    np.testing.assert_allclose(pca.eigenvalues_Q, reference.explained_variance_, rtol=tolerance)
    ours_NQ = pca.whiten(rows_ND).double().numpy()
    theirs_NQ = reference.transform(rows_ND.double().numpy())
    theirs_NQ /= np.linalg.norm(theirs_NQ, axis=1, keepdims=True)
    signs_Q = np.sign((ours_NQ * theirs_NQ).sum(axis=0))
    np.testing.assert_allclose(ours_NQ, theirs_NQ * signs_Q, atol=tolerance)


def test_fit_pca__unwhitened_keeps_the_proportions_of_components() -> None:
    rows_ND = features()
    reference_NQ = PCA(n_components=6).fit_transform(rows_ND.double().numpy())
    reference_NQ /= np.linalg.norm(reference_NQ, axis=1, keepdims=True)

    ours_NQ = fit_pca([rows_ND], dim=6, whitened=False).whiten(rows_ND).double().numpy()

    np.testing.assert_allclose(np.abs(ours_NQ), np.abs(reference_NQ), atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 399])
def test_fit_pca__does_not_depend_on_the_cut_into_blocks(size: int) -> None:
    rows_ND = features()
    assert_equal(fit_pca(rows_ND.split(size), dim=6), fit_pca([rows_ND], dim=6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_fit_pca__has_the_same_bytes_for_any_number_of_ranks(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "UNIT_ROWS", 1024)
    rows_ND = features(9000).to(dtype)  # nine units
    rows_ND[4500:] += 3.0

    alone = fit_pca([rows_ND], dim=6, num_rows=9000)

    assert_same(alone, fit_pca([rows_ND.double().float()], dim=6))
    for size in (2, 3, 4, 11):
        for fitted in fit_on_ranks(size, rows_ND, dim=6):
            assert_equal(fitted, alone)


@pytest.mark.parametrize("place", [100, 5000, 8999])
def test_fit_pca__larger_rows_after_the_first_unit_change_nothing_but_the_grid(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "UNIT_ROWS", 1024)
    rows_ND = features(9000)
    rows_ND[place] *= 30
    rows_ND[8000, 3] = 1e4  # a third level, if the first unit has no large row

    alone = fit_pca([rows_ND], dim=6, num_rows=9000)

    expected_Q = torch.linalg.eigvalsh(rows_ND.double().T.cov())[-6:].flip(0)
    torch.testing.assert_close(alone.eigenvalues_Q[:2].double(), expected_Q[:2], rtol=1e-5, atol=0)
    for size in (2, 3):
        for fitted in fit_on_ranks(size, rows_ND, dim=2):
            assert_equal(fitted, fit_pca([rows_ND], dim=2, num_rows=9000))


def test_moments__an_outlier_does_not_coarsen_the_sums_of_other_units() -> None:
    ordinary_ND = features(3000)
    origin = Origin.of(ordinary_ND[:1000])

    sums = []
    for scale in (1.0, 1e5):
        own = Moments(origin, num_rows=3000, device=torch.device("cpu"))
        for rows_BD in (*ordinary_ND.split(1000), scale * ordinary_ND[:1000]):
            own.add(rows_BD)
        sums.append(own.levels)

    assert list(sums[0]) == [0]
    assert sorted(sums[1])[0] == 0
    assert len(sums[1]) == 2
    products_DD = ordinary_ND - origin.shift_D.float()
    expected_DD = (products_DD.double().T @ products_DD.double()).triu()
    torch.testing.assert_close(sums[1][0].upper_DD.triu(), expected_DD, rtol=1e-5, atol=1e-3)


def test_fit_pca__takes_float16_without_overflow_or_loss() -> None:
    rows_ND = features(num=3000, mean=100.0).half()  # squares sum to 3e7, float16 ends at 65504
    assert_same(fit_pca([rows_ND], dim=6), fit_pca([rows_ND.float()], dim=6))


@pytest.mark.parametrize("num_rows", [12, 20, 21, 400])
def test_fit_pca__ranks_may_have_no_rows(num_rows: int) -> None:
    rows_ND = features(num_rows)  # one unit; up to 20 rows by their products with each other
    alone = fit_pca([rows_ND], dim=6, num_rows=num_rows)
    for fitted in fit_on_ranks(3, rows_ND, dim=6):
        assert_equal(fitted, alone)


def test_fit_pca__few_rows_of_several_ranks_equal_those_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moments, "LEAST_UNIT_ROWS", 128)
    monkeypatch.setattr(moments, "UNIT_BYTES", 1)  # units of 128 rows
    rows_ND = features(270, width=280)  # three units, and fewer rows than features
    alone = fit_pca([rows_ND], dim=3, num_rows=270)
    for fitted in fit_on_ranks(2, rows_ND, dim=3):
        assert_equal(fitted, alone)


@pytest.mark.parametrize("size", [2, 3])
def test_fit_pca__all_ranks_raise_what_one_rank_finds(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "UNIT_ROWS", 1024)
    rows_ND = features(5000)
    rows_ND[[4100, 4200], 3] = float("nan")

    def fit(ranks: Ranks) -> str:
        own = own_rows(5000, ranks, unit=unit_rows(20))
        with pytest.raises(FeatureError) as raised:
            fit_pca([rows_ND[own.start : own.stop]], dim=6, num_rows=5000, ranks=ranks)
        return str(raised.value)

    for message in on_ranks(size, fit):
        assert "2 of 5000 feature rows are not finite, the first at row 4100.\n" in message


def test_fit_pca__turns_the_largest_coordinate_positive() -> None:
    rows_ND = features()
    components_QD = fit_pca([rows_ND], dim=20).components_QD
    largest_Q = components_QD.gather(1, components_QD.abs().argmax(dim=1, keepdim=True))
    assert (largest_Q > 0).all()
    # Mirrored data have mirrored projections, but the same components.
    mirrored_QD = fit_pca([-rows_ND], dim=20).components_QD
    torch.testing.assert_close(mirrored_QD, components_QD, rtol=0, atol=1e-4)


def test_fit_pca__effective_rank_counts_directions_of_equal_spread() -> None:
    axes_ND = torch.cat([torch.eye(6)[:3], -torch.eye(6)[:3]])  # 3 of 6 axes, equal variances
    assert fit_pca([axes_ND], dim=2).effective_rank == pytest.approx(3.0)
    axes_ND[:, 0] *= 1000.0
    assert fit_pca([axes_ND], dim=1).effective_rank == pytest.approx(1.0, abs=1e-5)


# 20 rows: their products with each other; 400 rows: the covariance. 1/3 is not exact in float32.
@pytest.mark.parametrize("num_rows", [20, 400])
def test_fit_pca__dead_features_are_those_that_do_not_vary(num_rows: int) -> None:
    rows_ND = torch.randn(num_rows, 30, generator=torch.Generator().manual_seed(0))
    rows_ND[:, 3], rows_ND[:, 7], rows_ND[:, 11] = 0.0, 1 / 3, -1e4
    rows_ND[:, 20] *= 0.01  # varies little, but does

    assert fit_pca(rows_ND.split(7), dim=5).dead_features == pytest.approx(3 / 30)
    assert fit_pca([rows_ND[:, 12:]], dim=5).dead_features == 0


def test_whiten__rows_have_length_1_and_stay_float32() -> None:
    rows_ND = features().half()
    whitened_NQ = fit_pca([rows_ND], dim=6).whiten(rows_ND)
    assert whitened_NQ.dtype == torch.float32
    torch.testing.assert_close(whitened_NQ.norm(dim=1), torch.ones(400))


def test_whiten__a_row_at_the_mean_becomes_zero_not_nan() -> None:
    pca = Pca(
        mean_D=torch.tensor([1.0, 2.0, 3.0]),
        components_QD=torch.eye(3)[:2],
        eigenvalues_Q=torch.tensor([4.0, 1.0]),
        effective_rank=2.0,
        dead_features=0.0,
    )
    whitened_NQ = pca.whiten(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 3.0]]))
    assert whitened_NQ.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_fit_pca__counts_rows_that_are_not_finite() -> None:
    rows_ND = features()
    rows_ND[123, 4] = float("inf")
    rows_ND[321] = float("nan")
    with pytest.raises(FeatureError, match=r"2 of 400 feature rows are not finite, .* row 123"):
        fit_pca(rows_ND.split(50), dim=6)


# 1/3 is not exact in float32: the mean of equal rows differs from them in the last digit.
@pytest.mark.parametrize("value", [0.0, 1 / 3, -1e4])
def test_fit_pca__refuses_equal_rows(value: float) -> None:
    with pytest.raises(FeatureError, match="all 30 feature rows are equal"):
        fit_pca(torch.full((30, 7), value).split(11), dim=6)


@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [
        ((6, 20), 6, "6 images have at most 5 components.*at most 5"),
        ((40, 5), 6, "the features have 5 dimensions.*at most 5"),
        ((0, 5), 3, "0 images have at most 0 components"),
    ],
)
def test_fit_pca__refuses_more_components_than_the_shape_allows(
    shape: tuple[int, int], dim: int, message: str
) -> None:
    with pytest.raises(FeatureError, match=f"(?s)cluster.pca_dim is {dim}, but.*{message}"):
        fit_pca([torch.randn(shape, generator=torch.Generator().manual_seed(0))], dim=dim)


def test_fit_pca__refuses_more_components_than_the_rank() -> None:
    flat_ND = features(width=4) @ torch.randn(4, 20, generator=torch.Generator().manual_seed(1))
    with pytest.raises(FeatureError, match=r"(?s)vary in 4 directions only.*pca_dim to at most 4"):
        fit_pca([flat_ND], dim=6)
    assert len(fit_pca([flat_ND], dim=4).eigenvalues_Q) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fit_pca__gpu_equals_cpu() -> None:
    rows_ND = features()
    on_gpu = fit_pca(rows_ND.split(100), dim=6, device="cuda")
    assert_same(on_gpu, fit_pca(rows_ND.split(100), dim=6))
    whitened_NQ = on_gpu.whiten(rows_ND.cuda())
    assert whitened_NQ.is_cuda
    torch.testing.assert_close(whitened_NQ.cpu(), on_gpu.whiten(rows_ND), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num", [30, 39, 40, 41, 200])
def test_fit_pca__few_rows_are_the_same_as_their_covariance(num: int) -> None:
    rows_ND = features(num, width=40)

    found = fit_pca(rows_ND.split(20), dim=5)  # by the rows' products up to 40 of them

    eigenvalues_D = torch.linalg.eigvalsh(rows_ND.double().T.cov())
    expected_Q = eigenvalues_D[-5:].flip(0).float()
    torch.testing.assert_close(found.eigenvalues_Q, expected_Q, rtol=1e-5, atol=0)
