"""Suffixes: N rows, D raw dimensions, Q dimensions, S sampled."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepcluster_core.clustering.rows import InMemory, Projected

RAW_ND = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float16)
PROJECTION_DQ = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
EXPECTED_NQ = RAW_ND.astype(np.float32) @ PROJECTION_DQ


def project(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
    return raw_BD.astype(np.float32) @ PROJECTION_DQ


def projected(
    block_rows: int, project: Callable[[NDArray[np.floating]], NDArray[np.float32]] = project
) -> Projected:
    """Return rows in products of 30 and blocks of 90; 500 is a multiple of neither."""

    def read(rows: range) -> Iterator[NDArray[np.floating]]:
        for start in range(rows.start, rows.stop, block_rows):
            yield RAW_ND[start : min(start + block_rows, rows.stop)]

    return Projected(500, 3, read, project, product_rows=30, yielded_rows=90)


@pytest.mark.parametrize("block_rows", [1, 29, 99, 100, 500, 1000])
def test_projected__is_the_same_however_it_is_read(block_rows: int) -> None:
    rows, in_one = projected(block_rows), projected(500).all()
    ids_S = np.array([0, 98, 99, 100, 101, 350, 499])

    np.testing.assert_allclose(in_one, EXPECTED_NQ, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(rows.all(), in_one)
    blocks = list(rows.blocks())
    assert [len(block_BQ) for block_BQ in blocks] == [90, 90, 90, 90, 90, 50]
    np.testing.assert_array_equal(np.concatenate(blocks), in_one)
    np.testing.assert_array_equal(rows.take(ids_S), in_one[ids_S])
    np.testing.assert_array_equal(rows.take(ids_S[3:5]), in_one[ids_S[3:5]])
    np.testing.assert_array_equal(rows.keep(range(120, 331)), in_one[120:331])
    some = list(rows.blocks(range(120, 331)))
    np.testing.assert_array_equal(np.concatenate(some), in_one[120:331])
    assert rows.take(ids_S[:0]).shape == rows.keep(range(120, 120)).shape == (0, 3)
    assert rows.take(ids_S).dtype == np.float32


@pytest.mark.parametrize("block_rows", [1, 29, 99, 100, 500, 1000])
def test_projected__every_product_has_the_same_shape_and_place(block_rows: int) -> None:
    """Whether another shape has other last digits depends on the processor; this does not."""
    shapes: set[tuple[int, ...]] = set()

    def by_place(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return rows that say where in their product they were."""
        shapes.add(raw_BD.shape)
        places_B = np.arange(len(raw_BD), dtype=np.float32)
        return np.repeat(places_B[:, None], 3, axis=1)

    rows = projected(block_rows, by_place)
    ids_S = np.array([4, 31, 77, 499])

    assert rows.all()[:, 0].tolist() == [row % 30 for row in range(500)]
    assert rows.take(ids_S)[:, 0].tolist() == [4, 1, 17, 19]
    assert np.concatenate(list(rows.blocks()))[:, 0].tolist() == [row % 30 for row in range(500)]
    assert shapes == {(30, 6)}


@pytest.mark.parametrize("dims", [(6, 3), (64, 16), (257, 33), (4096, 8)])
@pytest.mark.parametrize("num_rows", [1, 5, 1023, 1025, 2100])
def test_projected__a_row_does_not_depend_on_how_many_come_after_it(
    dims: tuple[int, int], num_rows: int
) -> None:
    """As when some of the images of a run are assigned once more: real products, real widths."""
    width, kept = dims
    draw = np.random.default_rng(3)
    raw_ND = draw.standard_normal((2100, width)).astype(np.float32)
    weights_DQ = torch.from_numpy(draw.standard_normal((width, kept)).astype(np.float32))

    def product(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
        return (torch.from_numpy(raw_BD) @ weights_DQ).numpy()

    everything = Projected(2100, kept, lambda _: iter([raw_ND]), product).all()
    first = Projected(num_rows, kept, lambda _: iter([raw_ND[:num_rows]]), product).all()

    np.testing.assert_array_equal(first, everything[:num_rows])


def test_projected__takes_a_sample_without_projecting_the_rest() -> None:
    seen: list[int] = []

    def noted(raw_BD: NDArray[np.floating]) -> NDArray[np.float32]:
        seen.append(len(raw_BD))
        return project(raw_BD)

    rows = projected(100, noted)

    assert len(rows.take(np.array([3, 4, 250, 499]))) == 4
    assert seen == [30, 30, 30], "the three products that have such rows, of seventeen"


def test_in_memory__needs_no_copy() -> None:
    rows = InMemory(EXPECTED_NQ)

    assert rows.num_rows == 500
    assert np.shares_memory(rows.all(), EXPECTED_NQ)
    assert all(np.shares_memory(block_BQ, EXPECTED_NQ) for block_BQ in rows.blocks())
    np.testing.assert_array_equal(rows.take(np.array([4, 7])), EXPECTED_NQ[[4, 7]])
