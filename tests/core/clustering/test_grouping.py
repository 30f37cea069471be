"""Features on disk become clusters, on any number of ranks. Suffixes: N images, D dimensions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.clustering import grouping, kmeans, moments
from deepcluster_core.clustering.fit import Clustering
from deepcluster_core.clustering.grouping import Grouping, group
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.config import FeatureDtype
from deepcluster_core.context import Context
from deepcluster_core.errors import FeatureError
from deepcluster_core.ranks import Ranks
from tests.support.ranks import on_ranks


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deal rows to ranks in small units, so that tests need few rows."""
    monkeypatch.setattr(moments, "UNIT_ROWS", 1024)
    monkeypatch.setattr(kmeans, "UNIT_ROWS", 2048)
    monkeypatch.setattr(grouping, "BLOCK_BYTES", 1)


def features(folder: Path, *, count: int, dim: int, dtype: FeatureDtype) -> Features:
    """Write features that vary in all directions, away from zero, with copies of one row."""
    generator = np.random.default_rng(0)
    rows_ND = generator.standard_normal((count, dim)) * np.linspace(0.1, 1, dim) + 5
    rows_ND[count // 2 : count * 3 // 4] = rows_ND[0]
    rows_ND = rows_ND.astype(np.float32)
    folder.mkdir()
    batches = iter(np.array_split(rows_ND, max(1, count // 300)))
    write_features(folder, batches, num_images=count, dtype=dtype)
    return Features(folder)


def grouped(
    found: Features, clusterer: Clustering, size: int, *, whitened: bool = True
) -> list[Grouping]:
    def work(ranks: Ranks) -> Grouping:
        context = Context(seed=3, epoch=0, ranks=ranks)
        return group(found, [clusterer], context, pca_dim=8, whitened=whitened, clip=True)

    return on_ranks(size, work)


CASES: dict[str, tuple[int, int, FeatureDtype, Clustering, bool]] = {
    "float16": (9000, 40, "float16", KMeans(50, iterations=4), True),
    "float32": (9000, 40, "float32", KMeans(50, iterations=4), True),
    "unwhitened": (5000, 40, "float16", KMeans(50, iterations=4), False),
    "sample": (9000, 40, "float16", KMeans(30, 4, max_points_per_centroid=99), True),
    "spherical": (5000, 40, "float16", KMeans(50, 4, spherical=True), True),
    "fewer images than dimensions": (300, 400, "float16", KMeans(20, iterations=4), True),
}


@pytest.mark.parametrize("case", CASES)
def test_group__has_the_same_bytes_for_any_number_of_ranks(case: str, tmp_path: Path) -> None:
    count, dim, dtype, clusterer, whitened = CASES[case]
    found = features(tmp_path / "features", count=count, dim=dim, dtype=dtype)
    (alone,) = grouped(found, clusterer, 1, whitened=whitened)

    for size in (2, 3, 4):
        first, *others = grouped(found, clusterer, size, whitened=whitened)
        assert first.fit.cluster_N.tobytes() == alone.fit.cluster_N.tobytes()
        assert first.fit.distance_N.tobytes() == alone.fit.distance_N.tobytes()
        for made in (first, *others):
            for name, array in alone.arrays().items():
                assert made.arrays()[name].tobytes() == array.tobytes(), name
            assert made.pca.effective_rank == alone.pca.effective_rank


HEADS: list[Clustering] = [KMeans(50, iterations=4, spherical=True), KMeans(30, 4), KMeans(50, 4)]


@pytest.mark.parametrize("pca_dim", [8, None])
def test_group__several_clusterings_have_the_same_bytes_for_any_number_of_ranks(
    pca_dim: int | None, tmp_path: Path
) -> None:
    found = features(tmp_path / "features", count=9000, dim=40, dtype="float16")

    def work(ranks: Ranks) -> Grouping:
        context = Context(seed=3, epoch=0, ranks=ranks)
        return group(found, HEADS, context, pca_dim=pca_dim, whitened=False, clip=True)

    (alone,) = on_ranks(1, work)

    assert len(alone.fits) == 3
    for size in (2, 3):
        first, *others = on_ranks(size, work)
        for ours, expected in zip(first.fits, alone.fits, strict=True):
            assert ours.cluster_N.tobytes() == expected.cluster_N.tobytes()
            assert ours.distance_N.tobytes() == expected.distance_N.tobytes()
        for made in (first, *others):
            assert made.arrays().keys() == alone.arrays().keys()
            for name, array in alone.arrays().items():
                assert made.arrays()[name].tobytes() == array.tobytes(), name


def test_group__starts_from_the_rows_of_all_ranks(tmp_path: Path) -> None:
    # In the released code of DeepCluster-v2, all clusters start from rows of the first rank, which
    # must therefore have more rows than there are clusters.
    rows_ND = np.random.default_rng(0).standard_normal((5000, 12)).astype(np.float32)
    write_features(tmp_path, iter([rows_ND]), num_images=5000, dtype="float32")
    heads: list[Clustering] = [KMeans(2100, 1, spherical=True), KMeans(2200, 1, spherical=True)]

    def work(ranks: Ranks) -> Grouping:
        context = Context(seed=3, ranks=ranks)
        return group(Features(tmp_path), heads, context, pca_dim=None, whitened=False, clip=True)

    first, *_ = on_ranks(3, work)

    for fit in first.fits:
        share_of_units_K = np.bincount(fit.cluster_N, minlength=fit.num_clusters)
        assert (share_of_units_K > 0).mean() > 0.9, (
            "in all directions, there are rows to start from"
        )


@pytest.mark.parametrize("num_heads", [1, 3])
def test_group__progress_counts_the_rows_of_all_ranks(num_heads: int, tmp_path: Path) -> None:
    found = features(tmp_path / "features", count=9000, dim=20, dtype="float16")

    def work(ranks: Ranks) -> list[tuple[int, int | None]]:
        heard: list[tuple[int, int | None]] = []
        context = Context(
            seed=3, ranks=ranks, progress=lambda done, total: heard.append((done, total))
        )
        heads: list[Clustering] = [KMeans(9, 2)] * num_heads
        group(found, heads, context, pca_dim=8, whitened=True, clip=True)
        return heard

    for heard in on_ranks(2, work):
        assert heard[-1] == (9000, 9000)
        assert heard == sorted(heard)


def test_group__all_ranks_raise_the_same_error(tmp_path: Path) -> None:
    rows_ND = np.random.default_rng(0).standard_normal((5000, 12)).astype(np.float32)
    rows_ND[4321, 3] = np.inf
    write_features(tmp_path, iter([rows_ND]), num_images=5000, dtype="float16")

    def message(ranks: Ranks) -> str:
        context = Context(seed=3, ranks=ranks)
        with pytest.raises(FeatureError) as raised:
            group(Features(tmp_path), [KMeans(9)], context, pca_dim=8, whitened=True, clip=True)
        return str(raised.value)

    messages = on_ranks(3, message)
    assert len(set(messages)) == 1
    assert "1 of 5000 feature rows are not finite, the first at row 4321." in messages[0]


@pytest.mark.parametrize("free_bytes", [80 << 30, 0], ids=["held", "read again"])
@pytest.mark.parametrize("most", [None, 50], ids=["all", "a sample"])
def test_group__computes_on_a_device_what_it_computes_without(
    free_bytes: int, most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `cpu:0` is the CPU for torch, but treated like a GPU here.
    monkeypatch.setattr("deepcluster_core.clustering.device_rows.free_bytes", lambda _: free_bytes)
    found = features(tmp_path / "features", count=9000, dim=20, dtype="float16")
    clusterers: list[Clustering] = [
        KMeans(10, 2, max_points_per_centroid=most, library="torch") for _ in range(2)
    ]

    found_groupings = [
        group(found, clusterers, Context(seed=3, device=d), pca_dim=8, whitened=True, clip=False)
        for d in ("cpu", "cpu:0")
    ]

    for expected, on_device in zip(*(one.fits for one in found_groupings), strict=True):
        # Products of other shapes round differently, and may move rows that are near a border.
        assert on_device.objective == pytest.approx(expected.objective, rel=1e-5)
        assert np.mean(on_device.cluster_N == expected.cluster_N) > 0.999
        np.testing.assert_allclose(on_device.centroids_KQ, expected.centroids_KQ, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("free_bytes", [80 << 30, 0], ids=["held", "read again"])
def test_group__on_a_gpu_is_as_good_as_on_the_cpu(
    free_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcluster_core.clustering.device_rows.free_bytes", lambda _: free_bytes)
    found = features(tmp_path / "features", count=9000, dim=20, dtype="float16")
    clusterers: list[Clustering] = [KMeans(10, 20, library="torch")]

    on_cpu, on_gpu = [
        group(
            found, clusterers, Context(seed=3, device=d), pca_dim=8, whitened=True, clip=False
        ).fit
        for d in ("cpu", "cuda")
    ]

    # Rounding may lead to another local optimum.
    assert on_gpu.objective[-1] == pytest.approx(on_cpu.objective[-1], rel=0.05)
