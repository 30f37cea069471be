"""Search by torch against faiss, on the CPU, where both compute the same.

Suffixes: B rows, N rows, V vectors, Q dimensions.
"""

from typing import Any

import numpy as np
import pytest
import torch

from deepcluster_core.clustering import torch_index
from deepcluster_core.clustering.exact import ClusterSums, Grid
from deepcluster_core.clustering.faiss_index import exact_index
from deepcluster_core.clustering.fit import Fit
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.lloyd import iterate
from deepcluster_core.clustering.nearest import Nearest
from deepcluster_core.clustering.points import DevicePoints, Points
from deepcluster_core.clustering.rows import InMemory
from deepcluster_core.clustering.torch_index import TorchIndex
from deepcluster_core.errors import FeatureError
from deepcluster_core.ranks import Ranks
from tests.support.clustering_rows import blobs, unit_rows
from tests.support.ranks import on_ranks


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(torch_index, "TILE_ROWS", 64)
        monkeypatch.setattr(torch_index, "TILE_VALUES", 64 * 37)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("count", [1, 5])
def test_search__finds_what_faiss_finds(count: int) -> None:
    rows_BQ, vectors_VQ = unit_rows(300, 16), unit_rows(500, 16, seed=1)
    theirs = exact_index(16, device="cpu", library="faiss")
    ours = exact_index(16, device="cpu", library="torch")
    for index in (theirs, ours):
        index.add(vectors_VQ[:200])
        index.add(vectors_VQ[200:])

    squared, ids = ours.search(rows_BQ, count)

    expected_squared, expected_ids = theirs.search(rows_BQ, count)
    np.testing.assert_array_equal(ids, expected_ids)
    # Squared distances of up to 4 as differences of float32 products of up to 1: 2^-23 each.
    np.testing.assert_allclose(squared, expected_squared, atol=2e-6)


@pytest.mark.usefixtures("tiles")
def test_nearest__of_equal_vectors_is_one_with_the_lowest_number() -> None:
    vectors_VQ = np.tile(np.eye(4, dtype=np.float32), (50, 1))
    index = TorchIndex(4, "cpu")
    index.add(vectors_VQ)

    found = index.nearest(torch.eye(4))

    assert found.tolist() == [0, 1, 2, 3]


def test_search__without_rows() -> None:
    index = TorchIndex(4, "cpu")
    index.add(unit_rows(3, 4))

    squared, ids = index.search(unit_rows(0, 4), 2)

    assert squared.shape == ids.shape == (0, 2)


def test_nearest__is_exact_inside_autocast() -> None:
    rows = torch.from_numpy(unit_rows(500, 64))
    index = TorchIndex(64, "cpu")
    index.add(unit_rows(400, 64, seed=1))
    expected = index.nearest(rows)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = index.nearest(rows)
        rounded = (rows @ rows.T).dtype

    assert rounded == torch.bfloat16, "the block does round"
    assert torch.equal(found, expected)


# K-means


def fits(rows_NQ: Any, **settings: Any) -> tuple[Fit, Fit]:  # noqa: ANN401
    """Return the fits of faiss and of torch."""
    kmeans = [KMeans(k=100, iterations=10, library=name, **settings) for name in ("faiss", "torch")]
    theirs, ours = [one.fit(InMemory(rows_NQ), seed=0) for one in kmeans]
    return theirs, ours


@pytest.mark.parity
@pytest.mark.parametrize(
    "settings",
    [{}, {"spherical": True}, {"max_points_per_centroid": 20}, {"least_size": 0.5}],
    ids=str,
)
def test_kmeans__torch_gives_the_bytes_of_faiss_without_near_ties(settings: dict[str, Any]) -> None:
    rows_NQ, _ = blobs(20_000, k=200, noise=0.2)

    theirs, ours = fits(rows_NQ, **settings)

    # Equal clusters have equal sums, to the last bit.
    assert ours.centroids_KQ.tobytes() == theirs.centroids_KQ.tobytes()
    np.testing.assert_array_equal(ours.cluster_N, theirs.cluster_N)
    # The last iteration begins with equal centroids, too.
    assert ours.objective == pytest.approx(theirs.objective, rel=1e-5)
    # One by NumPy and one by torch, of float32.
    np.testing.assert_allclose(ours.distance_N, theirs.distance_N, atol=1e-6)


@pytest.mark.parity
def test_assign__differs_from_faiss_in_near_ties_only() -> None:
    rows_NQ = unit_rows(20_000, 32)  # without any clusters, so that many rows are near a border
    centroids_KQ = unit_rows(100, 32, seed=1, length=0.5)
    found = [
        Nearest(centroids_KQ, library=name).assign(InMemory(rows_NQ)) for name in ("faiss", "torch")
    ]

    (theirs_N, their_distance_N), (ours_N, our_distance_N) = found
    differs_N = ours_N != theirs_N
    assert differs_N.mean() < 1e-3
    np.testing.assert_allclose(our_distance_N, their_distance_N, atol=1e-6)
    objectives = [np.square(d_N, dtype=np.float64).sum() for _, d_N in found]
    assert objectives[1] == pytest.approx(objectives[0], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parity
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("max_points", [None, 20])
def test_kmeans__torch_on_a_gpu_gives_the_bytes_of_the_cpu_without_near_ties(
    max_points: int | None,
) -> None:
    rows_NQ, _ = blobs(20_000, k=200, noise=0.2)
    kmeans = KMeans(100, 10, max_points_per_centroid=max_points, library="torch")

    on_cpu, on_gpu = [kmeans.fit(InMemory(rows_NQ), seed=0, device=d) for d in ("cpu", "cuda")]

    assert on_gpu.centroids_KQ.tobytes() == on_cpu.centroids_KQ.tobytes()
    np.testing.assert_array_equal(on_gpu.cluster_N, on_cpu.cluster_N)
    np.testing.assert_allclose(on_gpu.distance_N, on_cpu.distance_N, atol=1e-6)


def test_kmeans__starts_from_given_clusters() -> None:
    rows_NQ, true_N = blobs(20_000, k=100, noise=0.2)

    theirs, ours = fits(rows_NQ, start_N=true_N.astype(np.int32))

    assert ours.centroids_KQ.tobytes() == theirs.centroids_KQ.tobytes()


@pytest.mark.parametrize("size", [2, 3])
def test_kmeans__any_number_of_ranks_gives_the_same_bytes(size: int) -> None:
    rows_NQ, _ = blobs(40_000, k=50, noise=0.2)

    def work(ranks: Ranks) -> Fit:
        return KMeans(50, 4, library="torch").fit(InMemory(rows_NQ), seed=0, ranks=ranks)

    (alone,) = on_ranks(1, work)
    first, *_ = on_ranks(size, work)

    assert first.centroids_KQ.tobytes() == alone.centroids_KQ.tobytes()
    np.testing.assert_array_equal(first.cluster_N, alone.cluster_N)


def test_iterate__rows_that_do_not_fit_on_the_device_give_the_same_bytes() -> None:
    rows_NQ, _ = blobs(20_000, k=100, noise=0.2)
    own = range(len(rows_NQ))
    found: list[bytes] = []
    for points in (
        Points(rows_NQ, own, len(rows_NQ), 1.0),
        DevicePoints(torch.from_numpy(rows_NQ), own, len(rows_NQ), 1.0),
    ):
        centroids_KQ, _ = iterate(points, rows_NQ[:100], iterations=3, seed=0, library="torch")
        found.append(centroids_KQ.tobytes())

    assert found[0] == found[1]


def test_kmeans__reports_rows_that_are_not_finite() -> None:
    rows_NQ = unit_rows(40_000)
    rows_NQ[20_001, 3] = np.nan
    rows_NQ[39_999, 0] = np.inf

    with pytest.raises(FeatureError, match=r"2 of 40000 feature rows .* the first at row 20001"):
        KMeans(5, 1, library="torch").fit(InMemory(rows_NQ), seed=0)


# Sums


@pytest.mark.parametrize("chunk_values", [1 << 6, 1 << 23])
def test_add_on_device__gives_the_bits_of_the_cpu_in_any_order(
    chunk_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcluster_core.clustering.exact.CHUNK_VALUES_ON_DEVICE", chunk_values)
    rows_NQ = unit_rows(5000, 16)
    cluster_N = np.random.default_rng(0).integers(7, size=5000)
    grid = Grid.of(1.0, 5000)
    expected = ClusterSums(8, 16, grid)
    expected.add(rows_NQ, cluster_N)
    order = np.random.default_rng(1).permutation(5000)

    sums = ClusterSums(8, 16, grid)
    sums.add_on_device(torch.from_numpy(rows_NQ[order]), torch.from_numpy(cluster_N[order]))

    for found, wanted in zip(sums.total(), expected.total(), strict=True):
        assert found.tobytes() == wanted.tobytes()
