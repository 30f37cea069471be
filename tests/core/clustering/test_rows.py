"""Suffixes: N rows, D raw dimensions, Q dimensions, S sampled."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from deepcluster_core.clustering.rows import InMemory, Projected

RAW_ND = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float16)
PROJECTION_DQ = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
EXPECTED_NQ = RAW_ND.astype(np.float32) @ PROJECTION_DQ


def project(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
    return raw_BD.astype(np.float32) @ PROJECTION_DQ


def projected(block_rows: int) -> Projected:
    def read() -> Iterator[NDArray[np.floating]]:
        for start in range(0, 500, block_rows):
            yield RAW_ND[start : start + block_rows]

    return Projected(500, 3, read, project)


@pytest.mark.parametrize("block_rows", [1, 99, 100, 500, 1000])
def test_projected__is_the_same_however_it_is_read(
    block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcluster_core.clustering.rows.PROJECT_ROWS", 30)
    rows = projected(block_rows)
    ids_S = np.array([0, 98, 99, 100, 101, 350, 499])

    np.testing.assert_allclose(rows.all(), EXPECTED_NQ, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(list(rows.blocks())), rows.all())
    np.testing.assert_array_equal(rows.take(ids_S), rows.all()[ids_S])
    assert rows.take(ids_S).dtype == np.float32


def test_projected__takes_a_sample_without_projecting_the_rest() -> None:
    seen: list[int] = []

    def noted(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
        seen.append(len(raw_BD))
        return project(raw_BD)

    rows = Projected(500, 3, projected(100).read, noted)

    assert len(rows.take(np.array([3, 250, 499]))) == 3
    assert sum(seen) == 3


def test_in_memory__needs_no_copy() -> None:
    rows = InMemory(EXPECTED_NQ)

    assert rows.num_rows == 500
    assert np.shares_memory(rows.all(), EXPECTED_NQ)
    assert all(np.shares_memory(block_BQ, EXPECTED_NQ) for block_BQ in rows.blocks())
    np.testing.assert_array_equal(rows.take(np.array([4, 7])), EXPECTED_NQ[[4, 7]])
