"""Suffixes: N images, V views of each, D dimensions."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray

from deepcluster_core.evaluation.embedding_quality import alignment, lidar, uniformity

Features = NDArray[np.float32]


def features(num: int, views: int, width: int, *, noise: float = 0.3) -> Features:
    """Return images at random places, whose views are scattered around them by `noise`."""
    generator = np.random.default_rng(0)
    place_N1D = generator.normal(size=(num, 1, width)) * np.linspace(1, 0.1, width) + 2
    feature_NVD = place_N1D + noise * generator.normal(size=(num, views, width))
    return feature_NVD.astype(np.float32)


def unit(feature_NVD: Features) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(feature_NVD), dim=-1)


def reference_lidar(float32_NVD: Features, delta: float) -> float:
    """Equations 1 and 2 as they are written: matrix roots, all eigenvalues, the entropy."""
    feature_NVD = float32_NVD.astype(np.float64)
    mean_ND = feature_NVD.mean(axis=1)
    between_DD = np.cov(mean_ND.T, bias=True)
    within_DD = delta * np.eye(feature_NVD.shape[2])
    for views_VD, mean_D in zip(feature_NVD, mean_ND, strict=True):
        for view_D in views_VD:
            deviation_D = view_D - mean_D
            within_DD += np.outer(deviation_D, deviation_D) / feature_NVD[:, :, 0].size
    root_DD = np.linalg.inv(np.real(np.asarray(scipy.linalg.sqrtm(within_DD))))
    eigenvalue_D = np.linalg.eigvalsh(root_DD @ between_DD @ root_DD).clip(min=0)
    share_D = eigenvalue_D / eigenvalue_D.sum() + 1e-12
    return float(np.exp(-(share_D * np.log(share_D)).sum()))


# More images than dimensions, and fewer.
@pytest.mark.parametrize(("num", "width"), [(400, 12), (20, 48)])
@pytest.mark.parametrize("delta", [1e-4, 1.0])
def test_lidar__equals_the_equations(num: int, width: int, delta: float) -> None:
    feature_NVD = features(num, 10, width)
    expected = reference_lidar(feature_NVD, delta)
    # 1e-5: roots of matrices in float64.
    assert lidar(feature_NVD, delta=delta) == pytest.approx(expected, rel=1e-5)


def test_lidar__counts_directions_that_tell_images_apart() -> None:
    # Images differ along 4 of 16 axes, views of an image along all of them.
    generator = np.random.default_rng(0)
    place_N1D = np.zeros((2000, 1, 16))
    place_N1D[..., :4] = 10 * generator.normal(size=(2000, 1, 4))
    feature_NVD = (place_N1D + generator.normal(size=(2000, 10, 16))).astype(np.float32)
    # The means of ten views still scatter by a thousandth of the variance of the four.
    assert lidar(feature_NVD, delta=1e-4) == pytest.approx(4, rel=0.05)


def test_lidar__scaling_a_direction_does_not_matter() -> None:
    feature_NVD = features(400, 10, 12)
    scaled_NVD = (feature_NVD * np.linspace(1, 30, 12)).astype(np.float32)
    # Unlike RankMe: the within-image scatter scales as well. A small delta, which has a scale.
    assert lidar(scaled_NVD, delta=1e-9) == pytest.approx(lidar(feature_NVD, delta=1e-9), rel=1e-4)


def test_alignment__is_the_mean_over_all_pairs_of_views() -> None:
    unit_NVD = unit(features(30, 4, 6))
    distances: list[float] = []
    for views_VD in unit_NVD:
        for one_D, other_D in itertools.combinations(views_VD, 2):
            distances.append(float((one_D - other_D).square().sum()))
    assert alignment(unit_NVD) == pytest.approx(np.mean(distances), rel=1e-5)
    assert alignment(unit_NVD[:, :1].repeat(1, 3, 1)) == pytest.approx(0, abs=1e-12)
    opposite_NVD = torch.stack([unit_NVD[:, 0], -unit_NVD[:, 0]], dim=1)
    assert alignment(opposite_NVD) == pytest.approx(4, rel=1e-5)


def test_uniformity__is_the_mean_over_all_pairs_of_images() -> None:
    unit_ND = unit(features(30, 1, 6)[:, 0])
    energies: list[float] = []
    for one_D, other_D in itertools.combinations(unit_ND, 2):
        energies.append(float(torch.exp(-2 * (one_D - other_D).square().sum())))
    assert uniformity(unit_ND) == pytest.approx(np.log(np.mean(energies)), rel=1e-5)
    assert uniformity(unit_ND[:1].repeat(5, 1)) == pytest.approx(0, abs=1e-6)
