"""Rows that stay on a device, computed on the CPU in its place.

Suffixes: N rows, S sampled, D raw dimensions, Q dimensions.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcluster_core.clustering import device_rows, scratch
from deepcluster_core.clustering.device_rows import (
    HeldRows,
    ProjectedOnDevice,
    block_rows,
    free_bytes,
    points_of,
)
from deepcluster_core.clustering.kmeans import KMeans
from deepcluster_core.clustering.moments import unit_rows
from deepcluster_core.clustering.pca import Pca, fit_pca
from deepcluster_core.clustering.points import DevicePoints
from deepcluster_core.clustering.rows import InMemory
from deepcluster_core.ranks import ALONE

RAW_ND = torch.from_numpy(np.random.default_rng(0).standard_normal((5000, 12), np.float32)).half()


def blocks(rows: range, size: int = 700) -> Iterator[Tensor]:
    part_ND = RAW_ND[rows.start : rows.stop]
    yield from part_ND.split(size)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldRows:
    """Rows 1000 to 3999, held after they were read once."""
    monkeypatch.setattr(device_rows, "free_bytes", lambda _device: 2 << 30)
    own = range(1000, 4000)
    held = HeldRows(own, num_bytes=1000, others_bytes=1000, device="cpu")
    passed = list(held.passing(blocks(own)))
    assert torch.equal(torch.cat(passed), RAW_ND[1000:4000])
    return held


@pytest.mark.parametrize(
    "rows", [range(1000, 4000), range(1000, 1001), range(1650, 2900), range(3999, 4000)]
)
def test_held_rows__are_read_again_in_any_part(rows: range, held: HeldRows) -> None:
    read = held.read(rows)

    assert read is not None
    assert torch.equal(torch.cat(list(read)), RAW_ND[rows.start : rows.stop])


@pytest.mark.parametrize("rows", [range(999, 2000), range(3000, 4001), range(5000)])
def test_held_rows__do_not_have_those_of_other_ranks(rows: range, held: HeldRows) -> None:
    assert held.read(rows) is None


def test_held_rows__that_do_not_fit_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rows, "free_bytes", lambda _device: 2 << 30)
    own = range(5000)
    held = HeldRows(own, num_bytes=1000, others_bytes=1 << 30, device="cpu")

    passed = list(held.passing(blocks(own)))

    assert torch.equal(torch.cat(passed), RAW_ND)
    assert held.read(own) is None


def test_held_rows__half_read_are_not_taken_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rows, "free_bytes", lambda _device: 2 << 30)
    held = HeldRows(range(5000), num_bytes=1000, others_bytes=1000, device="cpu")

    next(held.passing(blocks(range(5000))))

    assert held.read(range(5000)) is None


# Projection


def projected(size: int = 700) -> tuple[ProjectedOnDevice, Pca]:
    pca = fit_pca([RAW_ND], dim=4)
    return ProjectedOnDevice(5000, 4, partial(blocks, size=size), pca.whiten), pca


@pytest.mark.parametrize("size", [256, 5000])
def test_projected_on_device__has_the_projected_rows(size: int) -> None:
    rows, pca = projected(size)
    expected_NQ = pca.whiten(RAW_ND).numpy()

    # Products of different shapes may round differently; rows have length 1.
    np.testing.assert_allclose(rows.all(), expected_NQ, atol=1e-6)
    np.testing.assert_allclose(rows.keep(range(900, 4100)), expected_NQ[900:4100], atol=1e-6)
    for ids_S in (np.array([0, 1, 699, 700, 4999]), np.arange(1300, 1500), np.arange(0)):
        np.testing.assert_allclose(rows.take(ids_S), expected_NQ[ids_S], atol=1e-6)


@pytest.mark.parametrize("most", [None, 10])
def test_kmeans__of_projected_rows_is_that_of_the_rows_themselves(most: int | None) -> None:
    rows, _ = projected()
    kmeans = KMeans(10, 5, max_points_per_centroid=most, library="torch")

    found = kmeans.fit(rows, seed=0)

    expected = kmeans.fit(InMemory(rows.all()), seed=0)
    # A sample is projected in products of another shape, which may round differently.
    np.testing.assert_allclose(found.centroids_KQ, expected.centroids_KQ, atol=1e-6)
    np.testing.assert_array_equal(found.cluster_N, expected.cluster_N)


def test_points_of__on_a_device_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "MEMORY_BYTES", 0)
    monkeypatch.setattr(scratch, "_reserved_file", None)
    rows, _ = projected()

    points = points_of(rows, None, range(5000), ranks=ALONE, device="cpu", k=5)

    assert isinstance(points, DevicePoints)


@pytest.mark.parametrize("dim", [16, 4096, 25_088, 1 << 20])
def test_block_rows__are_whole_units_of_the_pca(dim: int) -> None:
    assert block_rows(dim) % unit_rows(dim) == 0
    assert block_rows(dim) >= unit_rows(dim)


def test_block_rows__take_a_quarter_of_a_gibibyte() -> None:
    assert block_rows(4096) == 16_384


def test_free_bytes__counts_what_torch_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 20)

    assert free_bytes("cuda:1") == 130
