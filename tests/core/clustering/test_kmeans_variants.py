"""Spherical, from a sample, from a warm start. Suffixes: N rows, Q dimensions, K clusters."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core.clustering.fit import Fit, means_of
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.nearest import assign
from deepcluster_core.clustering.rows import Floats, InMemory
from deepcluster_core.errors import FeatureError
from tests.support.clustering_rows import blobs, unit_rows


def inertia(fit: Fit) -> float:
    return float(np.square(fit.distance_N.astype(np.float64)).sum())


def counts(fit: Fit) -> NDArray[np.int64]:
    return np.bincount(fit.cluster_N, minlength=fit.num_clusters)


# Spherical


def test_spherical__centroids_have_length_1_and_the_largest_inner_product_wins() -> None:
    rows_NQ = unit_rows(3000)

    fit = KMeans(50, spherical=True).fit(InMemory(rows_NQ), seed=0)

    np.testing.assert_allclose(np.linalg.norm(fit.centroids_KQ, axis=1), 1, atol=1e-6)
    cosine_NK = rows_NQ.astype(np.float64) @ fit.centroids_KQ.astype(np.float64).T
    np.testing.assert_array_equal(fit.cluster_N, cosine_NK.argmax(axis=1))
    # |x - c|^2 = 2 - 2 cos, of which float32 keeps 1e-7.
    expected_N = np.sqrt(2 - 2 * cosine_NK.max(axis=1))
    np.testing.assert_allclose(fit.distance_N, expected_N, atol=1e-5)


def test_spherical__differs_from_plain_k_means() -> None:
    rows_NQ, _ = blobs(k=40, noise=0.3)
    plain = KMeans(10).fit(InMemory(rows_NQ), seed=0)
    spherical = KMeans(10, spherical=True).fit(InMemory(rows_NQ), seed=0)

    assert not np.array_equal(plain.cluster_N, spherical.cluster_N)
    assert np.linalg.norm(plain.centroids_KQ, axis=1).max() < 0.99


def test_spherical__objective_is_of_squared_distances_and_falls() -> None:
    rows_NQ, _ = blobs(k=40, noise=0.3)

    fit = KMeans(10, iterations=15, spherical=True).fit(InMemory(rows_NQ), seed=0)

    assert len(fit.objective) == 15
    # 1e-6: centroids are rounded to float32, and near ties may go to the farther one.
    assert all(np.diff(fit.objective) <= 1e-6 * fit.objective[0])
    assert inertia(fit) <= fit.objective[-1] * (1 + 1e-6)
    assert inertia(fit) == pytest.approx(fit.objective[-1], rel=0.01)


def test_spherical__rows_that_cancel_out_leave_every_row_at_its_nearest_centroid() -> None:
    # Two clusters of opposite rows: their means are zero, which has no direction.
    axes_KQ = np.eye(2, 8, dtype=np.float32)
    rows_NQ = np.concatenate([axes_KQ, -axes_KQ] * 10)

    fit = KMeans(2, spherical=True).fit(InMemory(rows_NQ), seed=0)

    assert np.isfinite(fit.centroids_KQ).all()
    distance_NK = np.linalg.norm(rows_NQ[:, None] - fit.centroids_KQ, axis=2)
    np.testing.assert_allclose(fit.distance_N, distance_NK.min(axis=1), atol=1e-6)


def test_spherical__refills_empty_clusters() -> None:
    rows_NQ = np.concatenate([np.repeat(unit_rows(1), 50, axis=0), unit_rows(200, seed=1)])

    fits = [KMeans(40, spherical=True).fit(InMemory(rows_NQ), seed=seed) for seed in range(4)]

    assert [fit.num_empty for fit in fits] == [0, 0, 0, 0]


# From a sample


@dataclass(frozen=True)
class Streamed(InMemory):
    """Rows of which nobody may ask for all at once."""

    def all(self) -> Floats:
        raise AssertionError("all rows in memory")

    def keep(self, rows: range) -> Floats:
        raise AssertionError("all rows kept")

    def blocks(self, rows: range | None = None) -> Iterator[Floats]:
        for start in range(0, self.num_rows, 700):
            yield self.rows_NQ[start : start + 700]


def test_sample__holds_only_the_sample_and_labels_every_row() -> None:
    rows_NQ = unit_rows(3000)
    heard: list[int] = []

    fit = KMeans(30, max_points_per_centroid=20).fit(
        Streamed(rows_NQ), seed=0, progress=lambda done, total: heard.append(done)
    )

    assert fit.fitted_on == 600
    assert heard == [1024, 2048, 3000]
    cluster_N, distance_N = assign(InMemory(rows_NQ), fit.centroids_KQ)
    np.testing.assert_array_equal(fit.cluster_N, cluster_N)
    np.testing.assert_allclose(fit.distance_N, distance_N, atol=1e-6)


def test_sample__is_drawn_evenly_by_the_seed_and_without_repetition() -> None:
    # As many clusters as sampled rows: the centroids are the sample.
    rows_NQ = unit_rows(1000)
    numbers = {row_Q.tobytes(): number for number, row_Q in enumerate(rows_NQ)}

    def sample(seed: int) -> list[int]:
        fit = KMeans(100, iterations=1, max_points_per_centroid=1).fit(InMemory(rows_NQ), seed=seed)
        return sorted(numbers[row_Q.tobytes()] for row_Q in fit.centroids_KQ)

    assert len(set(sample(0))) == 100
    assert sample(0) == sample(0)
    assert sample(0) != sample(1)
    quarters = np.histogram(np.concatenate([sample(seed) for seed in range(20)]), 4, (0, 1000))[0]
    assert quarters == pytest.approx([500] * 4, abs=80)  # 4 sigma of 2,000 draws


def test_sample__larger_than_the_data_is_all_of_it() -> None:
    rows_NQ = unit_rows(300)

    all_of_them = KMeans(9).fit(InMemory(rows_NQ), seed=0)
    sampled = KMeans(9, max_points_per_centroid=34).fit(InMemory(rows_NQ), seed=0)

    assert sampled.fitted_on == all_of_them.fitted_on == 300
    np.testing.assert_array_equal(sampled.centroids_KQ, all_of_them.centroids_KQ)


# From a warm start


@pytest.mark.parametrize("spherical", [False, True])
def test_warm_start__goes_on_where_the_clusters_were_and_keeps_their_ids(spherical: bool) -> None:
    rows_NQ, _ = blobs(k=40, noise=0.2)
    first = KMeans(40, spherical=spherical).fit(InMemory(rows_NQ), seed=0)
    moved_NQ = rows_NQ + unit_rows(2000, 16, seed=3, length=0.05)  # as features move in an epoch

    warm = KMeans(40, iterations=1, spherical=spherical, start_N=first.cluster_N)
    fit = warm.fit(InMemory(moved_NQ), seed=1)
    cold = KMeans(40, iterations=1, spherical=spherical).fit(InMemory(moved_NQ), seed=1)

    assert np.mean(fit.cluster_N == first.cluster_N) > 0.9
    assert fit.objective[0] < cold.objective[0]
    assert inertia(fit) < inertia(cold)


def test_warm_start__empty_clusters_start_at_random_rows() -> None:
    rows_NQ = unit_rows(500)
    start_N = np.repeat(np.array([0, 2, 3], dtype=np.int32), [100, 200, 200])

    fits = [KMeans(6, start_N=start_N).fit(InMemory(rows_NQ), seed=seed) for seed in (0, 0, 1)]

    assert [fit.num_empty for fit in fits] == [0, 0, 0]
    np.testing.assert_array_equal(fits[0].cluster_N, fits[1].cluster_N)
    assert not np.array_equal(fits[0].cluster_N, fits[2].cluster_N)


def test_warm_start__of_a_sample_reads_the_labels_of_the_sample() -> None:
    rows_NQ, true_N = blobs(k=8, noise=0.05)
    start_N = true_N.astype(np.int32)

    warm = KMeans(8, iterations=1, max_points_per_centroid=40, start_N=start_N)
    fit = warm.fit(Streamed(rows_NQ), seed=0)

    np.testing.assert_array_equal(fit.cluster_N, start_N)


@pytest.mark.parametrize(("num", "k"), [(99, 5), (100, 4)])
def test_warm_start__refuses_clusters_of_other_images_or_of_another_k(num: int, k: int) -> None:
    start_N = np.arange(num, dtype=np.int32) % 5

    with pytest.raises(FeatureError, match=rf"(?s)cluster\.warm_start.* 5 of {num} images.*Fix"):
        KMeans(k, start_N=start_N).fit(InMemory(unit_rows(100)), seed=0)


def test_means_of__are_those_of_the_members() -> None:
    rows_NQ, start_N = unit_rows(300), (np.arange(300) % 4).astype(np.int32)

    means_KQ = means_of(rows_NQ, start_N, k=5)

    expected_KQ = [rows_NQ[start_N == cluster].mean(axis=0) for cluster in range(4)]
    np.testing.assert_allclose(means_KQ[:4], expected_KQ, atol=1e-6)
    assert not means_KQ[4].any()
