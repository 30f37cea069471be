"""The iterations of k-means, and that ranks change nothing.

Suffixes: N rows, Q dimensions, K clusters.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core.clustering import kmeans as kmeans_module
from deepcluster_core.clustering import lloyd, scratch
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.lloyd import iterate, refilled
from deepcluster_core.clustering.nearest import Nearest, assign
from deepcluster_core.clustering.points import Points
from deepcluster_core.clustering.rows import ClusterIds, Floats, InMemory, Projected
from deepcluster_core.errors import FeatureError
from deepcluster_core.metrics import nmi
from deepcluster_core.ranks import Ranks
from tests.support.clustering_rows import blobs, unit_rows
from tests.support.ranks import on_ranks
from tests.support.threads import torch_threads

# The same as plain faiss


def faiss_from(rows_NQ: Floats, start_KQ: Floats, *, spherical: bool = False) -> faiss.Kmeans:
    reference = faiss.Kmeans(
        rows_NQ.shape[1],
        len(start_KQ),
        niter=20,
        spherical=spherical,
        max_points_per_centroid=len(rows_NQ),
        min_points_per_centroid=1,
    )
    reference.train(rows_NQ, init_centroids=start_KQ)
    return reference


def assigned(rows_NQ: Floats, centroids_KQ: Floats) -> tuple[ClusterIds, float]:
    """Return the nearest centroid of each row, and the sum of squared distances."""
    cluster_N, distance_N = assign(InMemory(rows_NQ), centroids_KQ)
    return cluster_N, float(np.square(distance_N, dtype=np.float64).sum())


@pytest.mark.parity
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize(("num_rows", "k"), [(2000, 40), (20_000, 200)])
def test_iterate__is_as_good_as_faiss_from_the_same_start(
    num_rows: int, k: int, spherical: bool
) -> None:
    rows_NQ, _ = blobs(num_rows, k=k, noise=0.2)
    start_KQ = rows_NQ[:k]
    reference = faiss_from(rows_NQ, start_KQ, spherical=spherical)

    points = Points(rows_NQ, range(num_rows), num_rows, 1.0)
    centroids_KQ, objective = iterate(points, start_KQ, iterations=20, seed=0, spherical=spherical)

    assert reference.centroids is not None
    assert len(objective) == 20
    # Summed anew in float64: faiss sums in float32, which is off by 1e-5 for 20,000 rows.
    ours_N, ours = assigned(rows_NQ, centroids_KQ)
    theirs_N, theirs = assigned(rows_NQ, reference.centroids)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert nmi(ours_N, theirs_N) >= 0.99


@pytest.mark.parity
def test_iterate__is_about_as_good_as_faiss_if_clusters_run_empty() -> None:
    # Many copies of one row: of the centroids that start there, all but one lose their rows.
    rows_NQ = np.concatenate([np.repeat(unit_rows(1), 300, axis=0), unit_rows(700, seed=1)])
    start_KQ = rows_NQ[np.random.default_rng(0).choice(1000, 60, replace=False)]
    reference = faiss_from(rows_NQ, start_KQ)

    points = Points(rows_NQ, range(1000), 1000, 1.0)
    centroids_KQ, _ = iterate(points, start_KQ, iterations=20, seed=0)

    assert reference.centroids is not None
    _, ours = assigned(rows_NQ, centroids_KQ)
    _, theirs = assigned(rows_NQ, reference.centroids)
    assert ours == pytest.approx(theirs, rel=0.1)


def test_iterate__objective_is_the_sum_of_squared_distances() -> None:
    # Far from zero, where |x|^2 is a million times the squared distances.
    rows_NQ = unit_rows(3000, 16, length=0.1) + np.float32(10)
    points = Points(rows_NQ, range(3000), 3000, 11.0)

    first_KQ, _ = iterate(points, rows_NQ[:20], iterations=3, seed=0)
    _, objective = iterate(points, first_KQ, iterations=1, seed=0)

    _, expected = assigned(rows_NQ, first_KQ)
    assert objective[0] == pytest.approx(expected, rel=1e-5)


# Empty clusters


@pytest.mark.parametrize("threads", [2, 3])
def test_iterate__any_number_of_threads_gives_the_same_bytes(threads: int) -> None:
    rows_NQ, _ = blobs(40_000, k=50, noise=0.2)
    points = Points(rows_NQ, range(40_000), 40_000, 1.0)

    def fitted(num_threads: int) -> bytes:
        with torch_threads(num_threads):
            return iterate(points, rows_NQ[:50], iterations=3, seed=0)[0].tobytes()

    assert fitted(threads) == fitted(1)


def test_iterate__no_worker_goes_on_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the thread that waits for the workers, of which each has 50 blocks."""
    found: list[int] = []
    has_begun = threading.Event()

    def find(nearest: Nearest, rows_NQ: Floats) -> ClusterIds:
        found.append(len(rows_NQ))
        has_begun.set()
        time.sleep(0.05)
        return np.zeros(len(rows_NQ), np.int32)

    def interrupted(task: Future[object], timeout: float | None = None) -> object:
        has_begun.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(Nearest, "find", find)
    monkeypatch.setattr(Future, "result", interrupted)
    rows_NQ = unit_rows(100 * lloyd.SUM_ROWS, 4)
    points = Points(rows_NQ, range(len(rows_NQ)), len(rows_NQ), 1.0)

    with torch_threads(2), pytest.raises(KeyboardInterrupt):
        iterate(points, rows_NQ[:50], iterations=3, seed=0)

    assert 0 < len(found) < 50


def test_refilled__splits_a_donor_by_a_1024th() -> None:
    centroids_KQ = unit_rows(4).astype(np.float64)
    count_K = np.array([0, 1, 9, 1])

    moved_KQ = refilled(centroids_KQ, count_K, np.random.default_rng(0))

    np.testing.assert_array_equal(moved_KQ[[1, 3]], centroids_KQ[[1, 3]])
    ratio_KQ = moved_KQ[[0, 2]] / centroids_KQ[2]
    np.testing.assert_allclose((ratio_KQ[0] - 1) * 1024, [1, -1] * 4)
    np.testing.assert_allclose((ratio_KQ[1] - 1) * 1024, [-1, 1] * 4)


def test_refilled__draws_large_clusters_more_often_and_those_of_one_row_never() -> None:
    centroids_KQ = unit_rows(4).astype(np.float64)
    count_K = np.array([0, 1, 11, 31])
    donors: list[int] = []
    for seed in range(400):
        moved_KQ = refilled(centroids_KQ, count_K, np.random.default_rng(seed))
        donors.append(int(np.abs(moved_KQ[0] - centroids_KQ).sum(axis=1).argmin()))

    assert donors.count(1) == 0
    assert donors.count(3) == pytest.approx(300, abs=35)  # 4 sigma of 400 draws


def test_refilled__needs_no_more_rows_than_clusters() -> None:
    centroids_KQ = unit_rows(5).astype(np.float64)

    moved_KQ = refilled(centroids_KQ, np.array([0, 0, 5, 0, 0]), np.random.default_rng(0))

    away_K = np.abs(moved_KQ - centroids_KQ[2]).max(axis=1)
    assert (away_K < 0.01).all(), "all clusters are near the only one with rows"


# On many ranks


def projected(rows_NQ: Floats) -> Projected:
    """Return the rows as a run has them, read in blocks of an odd size."""

    def read(rows: range) -> Iterator[NDArray[np.floating]]:
        for start in range(rows.start, rows.stop, 777):
            yield rows_NQ[start : min(start + 777, rows.stop)]

    def project(raw_BD: NDArray[np.floating]) -> Floats:
        return raw_BD.astype(np.float32)

    return Projected(len(rows_NQ), rows_NQ.shape[1], read, project)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deal rows to ranks in units of 2,048, so that tests need few of them."""
    monkeypatch.setattr(kmeans_module, "UNIT_ROWS", 2048)


SETTINGS = {
    "plain": KMeans(50, iterations=5),
    "spherical": KMeans(50, iterations=5, spherical=True),
    "sample": KMeans(50, iterations=5, max_points_per_centroid=90),
    "warm": KMeans(60, iterations=5, start_N=(np.arange(10_000) % 57).astype(np.int32)),
    "warm sample": KMeans(
        60,
        iterations=5,
        max_points_per_centroid=100,
        start_N=(np.arange(10_000) % 57).astype(np.int32),
    ),
}


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("name", SETTINGS)
def test_kmeans__has_the_same_bytes_for_any_number_of_ranks(name: str) -> None:
    rows_NQ, _ = blobs(10_000, k=70, noise=0.3)
    # Copies of a row make clusters run empty.
    rows_NQ[5000:8000] = rows_NQ[0]
    rows, settings = projected(rows_NQ), SETTINGS[name]

    alone = settings.fit(rows, seed=3)

    assert len(alone.cluster_N) == 10_000
    for size in (2, 3, 4, 7):
        first, *others = on_ranks(size, lambda ranks: settings.fit(rows, seed=3, ranks=ranks))
        np.testing.assert_array_equal(first.cluster_N, alone.cluster_N)
        np.testing.assert_array_equal(first.distance_N, alone.distance_N)
        for fit in (first, *others):
            assert fit.centroids_KQ.tobytes() == alone.centroids_KQ.tobytes()
            assert (fit.objective, fit.fitted_on) == (alone.objective, alone.fitted_on)
        assert all(len(fit.cluster_N) == len(fit.distance_N) == 0 for fit in others)


@pytest.mark.usefixtures("small_units")
def test_kmeans__any_float32_array_on_ranks() -> None:
    rows_NQ = (unit_rows(5000, length=40.0) + np.float32(7)).astype(np.float32)
    rows_NQ[4000] *= 100
    settings = KMeans(30, iterations=5)
    alone = settings.fit(InMemory(rows_NQ), seed=0)

    first, *_ = on_ranks(3, lambda ranks: settings.fit(InMemory(rows_NQ), seed=0, ranks=ranks))

    np.testing.assert_array_equal(first.cluster_N, alone.cluster_N)
    assert first.centroids_KQ.tobytes() == alone.centroids_KQ.tobytes()


def test_kmeans__ranks_without_rows() -> None:
    rows = InMemory(unit_rows(100))  # less than a unit
    alone = KMeans(9).fit(rows, seed=0)

    first, *_ = on_ranks(3, lambda ranks: KMeans(9).fit(rows, seed=0, ranks=ranks))

    np.testing.assert_array_equal(first.cluster_N, alone.cluster_N)


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("per_centroid", [None, 1000])
def test_kmeans__rows_in_a_file_give_what_rows_in_memory_give(
    per_centroid: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_NQ, _ = blobs(5000, k=9, noise=0.3)
    settings = KMeans(4, iterations=3, max_points_per_centroid=per_centroid)
    in_memory = settings.fit(projected(rows_NQ), seed=0)

    monkeypatch.setattr(scratch, "MEMORY_BYTES", 0)
    in_file = settings.fit(projected(rows_NQ), seed=0)

    np.testing.assert_array_equal(in_file.cluster_N, in_memory.cluster_N)
    assert in_file.centroids_KQ.tobytes() == in_memory.centroids_KQ.tobytes()


@pytest.mark.usefixtures("small_units")
def test_kmeans__all_ranks_name_the_first_row_that_is_not_finite() -> None:
    rows_NQ = unit_rows(5000)
    rows_NQ[[4200, 4900], 1] = np.nan

    def message(ranks: Ranks) -> str:
        with pytest.raises(FeatureError) as raised:
            KMeans(3).fit(InMemory(rows_NQ), seed=0, ranks=ranks)
        return str(raised.value)

    for text in on_ranks(3, message):
        assert "2 of 5000 feature rows are not finite, the first at row 4200." in text
