"""Suffixes: N rows, Q dimensions, K clusters."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import cluster as sklearn_cluster

from deepcluster_core.clustering.fit import Fit
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.nearest import Nearest, assign
from deepcluster_core.clustering.rows import Floats, InMemory
from deepcluster_core.errors import FeatureError
from deepcluster_core.metrics import nmi
from deepcluster_core.progress import Progress, silent
from tests.support.clustering_rows import blobs, unit_rows


def kmeans(
    rows_NQ: Floats,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
    **settings: Any,  # noqa: ANN401  of KMeans
) -> Fit:
    return KMeans(**settings).fit(InMemory(rows_NQ), seed=seed, device=device, progress=progress)


def counts(fit: Fit) -> NDArray[np.int64]:
    return np.bincount(fit.cluster_N, minlength=fit.num_clusters)


def with_copies(num_copies: int) -> Floats:
    """199 different rows, and one row `num_copies` times."""
    rows_NQ = unit_rows(200)
    return np.concatenate([np.repeat(rows_NQ[:1], num_copies, axis=0), rows_NQ[1:]])


def inertia(distance_N: Floats) -> float:
    return float(np.square(distance_N.astype(np.float64)).sum())


def test_kmeans__finds_what_is_there() -> None:
    rows_NQ, true_N = blobs(k=2, noise=0.05)
    fit = kmeans(rows_NQ, k=2, seed=1)
    assert nmi(fit.cluster_N, true_N) == pytest.approx(1.0)


@pytest.mark.parity
def test_kmeans__objective_is_close_to_scikit_learn() -> None:
    rows_NQ, _ = blobs(k=40, noise=0.2)
    theirs, ours = 0.0, 0.0
    for seed in range(5):
        reference = sklearn_cluster.KMeans(
            40, init="random", n_init=cast(Any, 1), max_iter=20, random_state=seed
        )
        theirs += float(cast(Any, reference.fit(rows_NQ)).inertia_) / 5
        ours += inertia(kmeans(rows_NQ, k=40, seed=seed).distance_N) / 5
    # Local optima: one run deviates by 2 % (20 seeds), so the difference of two means of five by
    # 1.3 %; three times that.
    assert ours == pytest.approx(theirs, rel=0.04)


def test_kmeans__every_iteration_lowers_the_objective() -> None:
    rows_NQ, _ = blobs(k=40, noise=0.3)
    fit = kmeans(rows_NQ, k=10, iterations=15, seed=0)
    assert len(fit.objective) == 15
    # 1e-6: centroids are rounded to float32, and near ties may go to the farther one.
    assert all(np.diff(fit.objective) <= 1e-6 * fit.objective[0])
    assert inertia(fit.distance_N) <= fit.objective[-1] * (1 + 1e-6)


def test_kmeans__runs_all_iterations_when_nothing_moves() -> None:
    five_NQ = np.repeat(unit_rows(5), 20, axis=0)
    assert len(kmeans(five_NQ, k=5, iterations=20, seed=0).objective) == 20


def test_kmeans__assigns_every_row_to_its_nearest_centroid() -> None:
    rows_NQ = unit_rows(3000)
    fit = kmeans(rows_NQ, k=50, seed=0, max_points_per_centroid=20)

    distance_NK = np.linalg.norm(
        rows_NQ.astype(np.float64)[:, None] - fit.centroids_KQ.astype(np.float64), axis=2
    )
    np.testing.assert_array_equal(fit.cluster_N, distance_NK.argmin(axis=1))
    np.testing.assert_allclose(fit.distance_N, distance_NK.min(axis=1), atol=1e-6)
    assert (fit.cluster_N.dtype, fit.distance_N.dtype) == (np.int32, np.float32)
    assert fit.centroids_KQ.dtype == np.float32


def test_kmeans__refills_empty_clusters() -> None:
    rows_NQ, k = with_copies(50), 40
    # The same without refill: of the centroids that start at the copied row, one gets its rows.
    start = np.random.default_rng(0).choice(len(rows_NQ), k, replace=False)
    centroids_KQ = rows_NQ[start]
    cluster_N, _ = assign(InMemory(rows_NQ), centroids_KQ)
    for _ in range(20):
        for cluster in np.unique(cluster_N):
            centroids_KQ[cluster] = rows_NQ[cluster_N == cluster].mean(axis=0)
        cluster_N, _ = assign(InMemory(rows_NQ), centroids_KQ)
    assert k - len(np.unique(cluster_N)) >= 3, "the data must need a refill"

    assert [kmeans(rows_NQ, k=k, seed=seed).num_empty for seed in range(4)] == [0, 0, 0, 0]


def test_kmeans__counts_empty_clusters_and_keeps_their_ids() -> None:
    five_NQ = np.repeat(unit_rows(5), 20, axis=0)
    fit = kmeans(five_NQ, k=12, seed=3)
    assert fit.num_empty == 12 - 5, "five different rows cannot fill more than five clusters"
    assert fit.num_clusters == len(fit.centroids_KQ) == 12
    assert np.count_nonzero(counts(fit)) == 5
    assert counts(fit).argmin() < fit.cluster_N.max(), "an empty one lies among the others"


def test_kmeans__is_a_function_of_its_seed() -> None:
    rows_NQ = unit_rows(500)
    # 2**63 - 1 is the largest seed of a run.
    once, again, other = (kmeans(rows_NQ, k=9, seed=seed) for seed in (2**63 - 1, 2**63 - 1, 2))
    np.testing.assert_array_equal(once.cluster_N, again.cluster_N)
    np.testing.assert_array_equal(once.centroids_KQ, again.centroids_KQ)
    assert not np.array_equal(once.cluster_N, other.cluster_N)


def test_kmeans__uses_every_row_unless_told() -> None:
    rows_NQ = unit_rows(3000)
    fit = kmeans(rows_NQ, k=3, iterations=30, seed=0)
    # The fixed point of all rows has their means.
    for cluster in range(3):
        mean_Q = rows_NQ[fit.cluster_N == cluster].mean(axis=0)
        np.testing.assert_allclose(fit.centroids_KQ[cluster], mean_Q, atol=0.01)
    sampled = kmeans(rows_NQ, k=3, iterations=30, seed=0, max_points_per_centroid=20)
    assert len(sampled.cluster_N) == 3000
    assert inertia(sampled.distance_N) > inertia(fit.distance_N)


def test_kmeans__prints_nothing_and_tells_its_progress(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[int, int | None]] = []
    kmeans(unit_rows(60), k=30, seed=0, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(60, 60)]
    assert capfd.readouterr() == ("", "")


def test_kmeans__shares_a_process_with_torch() -> None:
    # Both bring an OpenMP of their own.
    rows_NQ = unit_rows(4000)
    gram_QQ = torch.from_numpy(rows_NQ).T @ torch.from_numpy(rows_NQ)
    once = kmeans(rows_NQ, k=20, seed=0)
    assert torch.equal(torch.from_numpy(rows_NQ).T @ torch.from_numpy(rows_NQ), gram_QQ)
    np.testing.assert_array_equal(kmeans(rows_NQ, k=20, seed=0).cluster_N, once.cluster_N)


def test_assign__ties_go_to_the_lowest_id() -> None:
    centroids_KQ = np.array([[4, 4], [0, 0], [2, 0], [-0.0, 0], [0, 2]], dtype=np.float32)
    rows_NQ = np.array([[0, 0], [1, 0], [1, 1], [4, 5]], dtype=np.float32)
    cluster_N, distance_N = assign(InMemory(rows_NQ), centroids_KQ)
    assert cluster_N.tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(distance_N, [0, 1, np.sqrt(2), 1], rtol=1e-6)


def test_assign__equal_centroids_count_as_the_lowest() -> None:
    # Large enough for faiss to take a product of matrices, and there it scatters these rows.
    equal_KQ = np.repeat(unit_rows(1, 256, seed=9), 300, axis=0)
    equal_KQ[:, 0] = 0.0
    equal_KQ[0, 0] = -0.0  # still equal
    rows_NQ = equal_KQ[0] + unit_rows(500, 256, seed=5, length=0.1)
    cluster_N, _ = assign(InMemory(rows_NQ), np.concatenate([unit_rows(50, 256), equal_KQ]))
    assert set(cluster_N) == {50}


def test_assign__keeps_small_distances_far_from_zero() -> None:
    # |x|^2 is 2.6e6, of which float32 keeps multiples of 0.25; the distances are 0.1.
    centroids_KQ = unit_rows(300, 256) + np.float32(100)
    rows_NQ = centroids_KQ.repeat(3, axis=0) + unit_rows(900, 256, seed=2, length=0.1)
    cluster_N, distance_N = assign(InMemory(rows_NQ), centroids_KQ)
    np.testing.assert_array_equal(cluster_N, np.arange(300).repeat(3))
    expected_N = np.linalg.norm(
        rows_NQ.astype(np.float64) - centroids_KQ[cluster_N].astype(np.float64), axis=1
    )
    np.testing.assert_allclose(distance_N, expected_N, rtol=1e-3)  # float32 steps at 100: 8e-6


def test_assign__does_not_depend_on_blocks() -> None:
    rows_NQ, centroids_KQ = unit_rows(300), unit_rows(20, seed=1)
    whole_N, _ = assign(InMemory(rows_NQ), centroids_KQ)
    heard: list[int] = []
    cut_N, _ = Nearest(centroids_KQ, block_rows=70).assign(
        InMemory(rows_NQ), progress=lambda done, total: heard.append(done)
    )
    np.testing.assert_array_equal(cut_N, whole_N)
    assert heard == [70, 140, 210, 280, 300]


def test_assign__takes_read_only_rows() -> None:
    # Arrays from Parquet and memory maps are read-only.
    rows_NQ = unit_rows(30)
    rows_NQ.flags.writeable = False
    cluster_N, _ = assign(InMemory(rows_NQ), rows_NQ)
    np.testing.assert_array_equal(cluster_N, np.arange(30))


def test_kmeans__refuses_more_clusters_than_rows() -> None:
    with pytest.raises(FeatureError, match=r"(?s)cluster\.k is 31, but .* only 30 images.*most 30"):
        kmeans(unit_rows(30), k=31, seed=0)
    assert kmeans(unit_rows(30), k=30, seed=0).num_empty == 0


def test_kmeans__refuses_a_single_cluster() -> None:
    with pytest.raises(FeatureError, match=r"cluster\.k is 1"):
        kmeans(unit_rows(30), k=1, seed=0)


def test_kmeans__refuses_rows_that_are_not_finite() -> None:
    rows_NQ = unit_rows(30)
    rows_NQ[11, 2] = np.nan
    rows_NQ[20, :2] = np.inf, -np.inf
    with pytest.raises(FeatureError, match=r"2 of 30 feature rows are not finite, .* row 11"):
        kmeans(rows_NQ, k=3, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kmeans__gpu_is_as_good_as_cpu() -> None:
    rows_NQ, _ = blobs(k=40, noise=0.2)
    on_cpu, on_gpu = (kmeans(rows_NQ, k=40, seed=0, device=device) for device in ("cpu", "cuda"))
    # The same start, but rounding may lead to another local optimum.
    assert inertia(on_gpu.distance_N) == pytest.approx(inertia(on_cpu.distance_N), rel=0.05)
    cluster_N, _ = assign(InMemory(rows_NQ), on_gpu.centroids_KQ)
    assert np.mean(cluster_N == on_gpu.cluster_N) > 0.999
