"""Clusters of a least size. Suffixes: N rows, K clusters, Q dimensions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from numpy.typing import NDArray

from deepcluster_core.clustering import least_size
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.least_size import TOLERANCE, Quota
from deepcluster_core.clustering.nearest import assign
from deepcluster_core.clustering.rows import ClusterIds, Floats, InMemory
from tests.support.clustering_rows import blobs, unit_rows


def uneven(num: int = 400, k: int = 8, *, seed: int = 0) -> tuple[Floats, Floats]:
    """Return unit rows, most of them in one direction, and centroids in all directions."""
    generator = np.random.default_rng(seed)
    centroids_KQ = unit_rows(k, 6, seed=seed)
    near_N = np.minimum(generator.geometric(0.4, size=num) - 1, k - 1)
    rows_NQ = centroids_KQ[near_N] + 0.3 * generator.standard_normal((num, 6)).astype(np.float32)
    rows_NQ /= np.linalg.norm(rows_NQ, axis=1, keepdims=True)
    return rows_NQ, centroids_KQ


def filled(
    rows_NQ: Floats, centroids_KQ: Floats, least: int, *, block_rows: int = 150
) -> tuple[ClusterIds, Floats]:
    def blocks() -> Iterator[Floats]:
        for start in range(0, len(rows_NQ), block_rows):
            yield rows_NQ[start : start + block_rows]

    cluster_N, distance_N = assign(InMemory(rows_NQ), centroids_KQ)
    return Quota(blocks, centroids_KQ, least).fill(cluster_N, distance_N)


def squared_distances(rows_NQ: Floats, centroids_KQ: Floats) -> NDArray[np.float64]:
    away_NKQ = rows_NQ[:, None].astype(np.float64) - centroids_KQ[None]
    return np.square(away_NKQ).sum(axis=2)


def least_sum(cost_NK: NDArray[np.float64], least: int) -> float:
    """Return the optimum of the linear program, whose solutions are whole numbers."""
    num, k = cost_NK.shape
    each_row = scipy.sparse.kron(scipy.sparse.eye(num), np.ones((1, k)))
    each_cluster = scipy.sparse.kron(np.ones((1, num)), scipy.sparse.eye(k))
    found: Any = scipy.optimize.linprog(
        cost_NK.ravel(),
        A_ub=-each_cluster,
        b_ub=np.full(k, -least),
        A_eq=each_row,
        b_eq=np.ones(num),
    )
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("least", [1, 10, 25, 49, 50])
def test_fill__sum_is_least_up_to_the_tolerance(least: int, seed: int) -> None:
    rows_NQ, centroids_KQ = uneven(seed=seed)
    cost_NK = squared_distances(rows_NQ, centroids_KQ)

    cluster_N, distance_N = filled(rows_NQ, centroids_KQ, least)

    assert np.bincount(cluster_N, minlength=8).min() >= least
    cost_N = cost_NK[np.arange(len(rows_NQ)), cluster_N]
    np.testing.assert_allclose(distance_N, np.sqrt(cost_N), atol=1e-5)
    optimum, plain = least_sum(cost_NK, least), cost_NK.min(axis=1).sum()
    # The solver of the linear program and float32 distances are exact to about 1e-6.
    assert optimum * (1 - 1e-5) <= cost_N.sum() <= optimum * (1 + 1e-5) + TOLERANCE * plain


def test_fill__equal_sizes_are_an_assignment_of_rows_to_places() -> None:
    rows_NQ, centroids_KQ = uneven(200, 8, seed=4)
    cost_NK = squared_distances(rows_NQ, centroids_KQ)
    row_N, place_N = scipy.optimize.linear_sum_assignment(np.repeat(cost_NK, 25, axis=1))
    optimum = cost_NK[row_N, place_N // 25].sum()

    cluster_N, _ = filled(rows_NQ, centroids_KQ, 25)

    np.testing.assert_array_equal(np.bincount(cluster_N), np.full(8, 25))
    cost = cost_NK[np.arange(200), cluster_N].sum()
    assert cost == pytest.approx(optimum, rel=2 * TOLERANCE)


def test_fill__returns_the_nearest_clusters_if_none_is_too_small() -> None:
    rows_NQ, centroids_KQ = uneven()
    nearest_N, distance_N = assign(InMemory(rows_NQ), centroids_KQ)
    least = int(np.bincount(nearest_N, minlength=8).min())

    found_N, found_distance_N = filled(rows_NQ, centroids_KQ, least)

    assert found_N.tobytes() == nearest_N.tobytes()
    assert found_distance_N.tobytes() == distance_N.tobytes()


@pytest.mark.parametrize("share_of_copies", [0.7, 1.0])
def test_fill__rows_that_are_equal_are_divided(share_of_copies: float) -> None:
    rows_NQ = unit_rows(300, 6)
    rows_NQ[: int(300 * share_of_copies)] = rows_NQ[0]

    cluster_N, _ = filled(rows_NQ, unit_rows(10, 6, seed=3), 30)

    np.testing.assert_array_equal(np.bincount(cluster_N), np.full(10, 30))


def test_fill__centroids_that_are_equal_share_the_rows() -> None:
    rows_NQ = unit_rows(300, 6)

    cluster_N, _ = filled(rows_NQ, np.repeat(unit_rows(2, 6, seed=3), 5, axis=0), 20)

    assert np.bincount(cluster_N, minlength=10).min() >= 20


def test_fill__bounded_memory_changes_nothing_but_the_order_of_equal_offers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows_NQ, centroids_KQ = uneven(3000, 12)
    cost_NK = squared_distances(rows_NQ, centroids_KQ)
    monkeypatch.setattr(least_size, "LIST_ROWS", 2)
    monkeypatch.setattr(least_size, "MOST_ENTRIES", 0)
    monkeypatch.setattr(least_size, "BLOCK_ROWS", 256)
    monkeypatch.setattr(least_size, "BLOCK_VALUES", 1)

    cluster_N, _ = filled(rows_NQ, centroids_KQ, 120)

    assert np.bincount(cluster_N, minlength=12).min() >= 120
    cost, plain = cost_NK[np.arange(3000), cluster_N].sum(), cost_NK.min(axis=1).sum()
    assert cost <= least_sum(cost_NK, 120) + TOLERANCE * plain + 1e-3


# In k-means


@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans__least_size_that_never_binds_changes_no_byte(spherical: bool) -> None:
    rows_NQ, _ = blobs(2000, k=10, noise=0.2)
    plain = KMeans(10, 8, spherical=spherical).fit(InMemory(rows_NQ), seed=2)
    least = np.bincount(plain.cluster_N, minlength=10).min()
    assert least > 20

    found = KMeans(10, 8, spherical=spherical, least_size=0.02).fit(InMemory(rows_NQ), seed=2)

    assert found.centroids_KQ.tobytes() == plain.centroids_KQ.tobytes()
    assert found.cluster_N.tobytes() == plain.cluster_N.tobytes()
    assert found.distance_N.tobytes() == plain.distance_N.tobytes()
    assert found.objective == plain.objective


@pytest.mark.parametrize("sample", [None, 40])
@pytest.mark.parametrize(("share", "least"), [(0.3, 15), (0.5, 25), (1.0, 50)])
def test_kmeans__every_cluster_has_its_least_size(
    share: float, least: int, sample: int | None
) -> None:
    rows_NQ, _ = blobs(1000, k=4, noise=0.3)
    rows_NQ[:500] = rows_NQ[0]
    settings = KMeans(20, 6, spherical=True, max_points_per_centroid=sample, least_size=share)

    fit = settings.fit(InMemory(rows_NQ), seed=1)
    again = settings.fit(InMemory(rows_NQ), seed=1)

    assert np.bincount(fit.cluster_N, minlength=20).min() >= least
    assert fit.num_empty == 0
    own_centroid_NQ = fit.centroids_KQ[fit.cluster_N]
    distance_N = np.linalg.norm(rows_NQ - own_centroid_NQ, axis=1)
    np.testing.assert_allclose(fit.distance_N, distance_N, atol=1e-5)
    assert fit.cluster_N.tobytes() == again.cluster_N.tobytes()


def test_kmeans__centroids_follow_the_rows_that_clusters_get() -> None:
    rows_NQ, _ = uneven(1000, 8)
    plain = KMeans(8, 6).fit(InMemory(rows_NQ), seed=1)
    afterwards_N, _ = filled(rows_NQ, plain.centroids_KQ, 125)
    cost = squared_distances(rows_NQ, plain.centroids_KQ)[np.arange(1000), afterwards_N].sum()

    fit = KMeans(8, 6, least_size=1.0).fit(InMemory(rows_NQ), seed=1)

    assert np.square(fit.distance_N, dtype=np.float64).sum() < 0.95 * cost


def test_kmeans__least_number_is_not_one_less_by_rounding() -> None:
    rows_NQ, _ = uneven(100, 10)

    fit = KMeans(10, 3, least_size=0.3).fit(InMemory(rows_NQ), seed=0)  # 2.9999999999999996 rows

    assert np.bincount(fit.cluster_N, minlength=10).min() >= 3
