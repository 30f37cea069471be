"""Suffixes: N rows, Q dimensions, M neighbours."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from deepcluster_core.clustering.fit import Fit
from deepcluster_core.clustering.nearest import assign
from deepcluster_core.clustering.pic import Pic
from deepcluster_core.clustering.pic_config import PicConfig
from deepcluster_core.clustering.rows import Floats, InMemory
from deepcluster_core.errors import FeatureError
from deepcluster_core.metrics import nmi
from tests.support.clustering_rows import blobs, unit_rows


def pic(rows_NQ: Floats, **settings: Any) -> Fit:  # noqa: ANN401  of PicConfig
    return Pic(PicConfig(**settings)).fit(InMemory(rows_NQ))


def row_by_row(rows_NQ: Floats, settings: PicConfig) -> list[int]:
    """The method as one would write it down, with loops and dense matrices; gives summits."""
    num = len(rows_NQ)
    wide_NQ = rows_NQ.astype(np.float64)
    squared_NN = np.square(wide_NQ[:, None] - wide_NQ[None]).sum(axis=2)
    nearest = [
        sorted((j for j in range(num) if j != i), key=lambda j: squared_NN[i, j])[
            : settings.neighbours
        ]
        for i in range(num)
    ]
    weights_NN = np.zeros((num, num))
    for i in range(num):
        for j in nearest[i]:
            weight = np.exp(-squared_NN[i, j] / settings.sigma**2)
            weights_NN[i, j] += weight
            weights_NN[j, i] += weight
    v_N = np.full(num, 1 / num)
    for _ in range(settings.iterations):
        v_N = settings.alpha / num + (1 - settings.alpha) * weights_NN @ v_N
        v_N /= v_N.sum()
    summit = list(range(num))
    for i in range(num):
        at = i
        while (gains_N := weights_NN[at] * (v_N - v_N[at])).max() > 0:
            at = int(gains_N.argmax())
        summit[i] = at
    joined = list(summit)
    for i in range(num):
        if summit.count(summit[i]) == 1:
            others = [j for j in nearest[i] if summit.count(summit[j]) > 1]
            joined[i] = summit[others[0]] if others else summit[i]
    return joined


def same_groups(a_N: NDArray[np.integer], b_N: NDArray[np.integer]) -> bool:
    pairs = set(zip(a_N.tolist(), b_N.tolist(), strict=True))
    return len(pairs) == len(set(a_N.tolist())) == len(set(b_N.tolist()))


@pytest.mark.parametrize(
    "settings",
    [
        PicConfig(),
        PicConfig(neighbours=2, iterations=3),
        PicConfig(sigma=0.5, alpha=0.1),
        PicConfig(sigma=0.1),
    ],
)
def test_pic__is_the_method_row_by_row(settings: PicConfig) -> None:
    rows_NQ, _ = blobs(150, k=12, noise=0.08)  # near ones 0.1 to 0.3 apart, about sigma

    fit = Pic(settings).fit(InMemory(rows_NQ))

    expected_N = np.array(row_by_row(rows_NQ, settings))
    assert 2 < fit.num_clusters < 75
    assert same_groups(fit.cluster_N, expected_N)


def test_pic__never_joins_groups_that_no_neighbour_connects() -> None:
    rows_NQ, true_N = blobs(k=30, noise=0.02)

    fit = pic(rows_NQ)

    assert fit.num_clusters >= 30
    assert all(len(np.unique(true_N[fit.cluster_N == c])) == 1 for c in range(fit.num_clusters))
    assert nmi(fit.cluster_N, true_N) > 0.8


def test_pic__ids_are_consecutive_and_centroids_are_means() -> None:
    rows_NQ, _ = blobs(k=30, noise=0.1)

    fit = pic(rows_NQ)

    assert (fit.num_empty, fit.fitted_on, fit.objective) == (0, 2000, ())
    assert (fit.cluster_N.dtype, fit.distance_N.dtype) == (np.int32, np.float32)
    for cluster in range(fit.num_clusters):
        mean_Q = rows_NQ[fit.cluster_N == cluster].mean(axis=0)
        np.testing.assert_allclose(fit.centroids_KQ[cluster], mean_Q, atol=1e-6)
    away_NQ = rows_NQ - fit.centroids_KQ[fit.cluster_N]
    np.testing.assert_allclose(fit.distance_N, np.linalg.norm(away_NQ, axis=1), atol=1e-6)
    near_N, _ = assign(InMemory(rows_NQ), fit.centroids_KQ)
    assert np.mean(near_N == fit.cluster_N) > 0.5, "new images are assigned to much the same"


def test_pic__copies_of_an_image_stay_together() -> None:
    # Six copies with five neighbours are a plateau: all see each other and nobody else.
    rows_NQ = np.concatenate([np.repeat(unit_rows(1), 6, axis=0), unit_rows(60, seed=1)])
    many_NQ = np.concatenate([np.repeat(unit_rows(1), 40, axis=0), unit_rows(60, seed=1)])

    assert len(np.unique(pic(rows_NQ).cluster_N[:6])) == 1
    # Of 40 copies the five that each sees are not the same; some row is its own neighbour to faiss.
    assert len(np.unique(pic(many_NQ).cluster_N[:40])) < 40 / 5


def test_pic__rows_far_apart_still_have_their_summits() -> None:
    # Weights are about e^-25 to e^-100, and 1e-16 of alpha is more than they add to it.
    rows_NQ = unit_rows(400, 64)

    fit = pic(rows_NQ)

    assert fit.num_clusters < 100
    assert np.bincount(fit.cluster_N).min() > 1


def test_pic__refuses_a_sigma_for_which_all_weights_are_zero() -> None:
    with pytest.raises(FeatureError, match=r"(?s)cluster\.pic\.sigma.*50 clusters of 50.*larger"):
        pic(unit_rows(50, 64), sigma=0.01)


def test_pic__is_the_same_again_and_for_any_block() -> None:
    rows_NQ, _ = blobs(k=30, noise=0.1)
    whole = pic(rows_NQ)
    heard: list[tuple[int, int | None]] = []

    cut = Pic(PicConfig(), block_rows=700).fit(
        InMemory(rows_NQ), seed=9, progress=lambda done, total: heard.append((done, total))
    )

    np.testing.assert_array_equal(cut.cluster_N, whole.cluster_N)
    np.testing.assert_array_equal(cut.centroids_KQ, whole.centroids_KQ)
    assert heard == [(700, 2000), (1400, 2000), (2000, 2000)]


def test_pic__refuses_more_neighbours_than_rows() -> None:
    with pytest.raises(FeatureError, match=r"(?s)cluster\.pic\.neighbours is 5.* 5 images.*most 4"):
        pic(unit_rows(5))


def test_pic__refuses_a_single_cluster() -> None:
    rows_NQ = np.repeat(unit_rows(1), 6, axis=0)
    with pytest.raises(FeatureError, match="all 6 images are in one cluster"):
        pic(rows_NQ)


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"sigma": 0.0}, {"alpha": 1.0}, {"alpha": 0.0}, {"sgima": 0.2}]
)
def test_pic__refuses_settings_without_a_meaning(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PicConfig.model_validate(wrong)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pic__gpu_finds_the_same_neighbours() -> None:
    rows_NQ, _ = blobs(k=30, noise=0.1)
    on_gpu = Pic(PicConfig()).fit(InMemory(rows_NQ), device="cuda")
    assert nmi(on_gpu.cluster_N, pic(rows_NQ).cluster_N) > 0.99
