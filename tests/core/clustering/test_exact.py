"""Sums without rounding. Suffixes: N rows, Q dimensions, K clusters."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcluster_core.clustering.exact import ClusterSums, Grid, exponent_of, sum_of_squares
from deepcluster_core.clustering.rows import largest_of
from deepcluster_core.ranks import Ranks, own_rows
from tests.support.clustering_rows import unit_rows
from tests.support.ranks import on_ranks


@pytest.mark.parametrize(("value", "exponent"), [(1, 0), (1.5, 1), (2, 1), (0.25, -2), (-3, 2)])
def test_exponent_of__is_the_least_power_of_two(value: float, exponent: int) -> None:
    assert exponent_of(value) == exponent


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=200),
    st.integers(0, 100),
)
def test_grid__sums_are_exact_in_any_order(terms: list[float], seed: int) -> None:
    grid = Grid.of(max(map(abs, terms)), len(terms))
    rounded = grid.round_(torch.tensor(terms, dtype=torch.float64)).tolist()
    exact = sum(map(Fraction, rounded))

    assert all(Fraction(term) % Fraction(grid.step) == 0 for term in rounded)
    assert Fraction(sum(rounded)) == exact
    shuffled = np.random.default_rng(seed).permutation(rounded)
    assert Fraction(float(sum(shuffled))) == exact
    assert np.abs(np.array(rounded).sum() - np.sum(terms)) <= len(terms) * grid.step


def test_grid__is_finer_than_float32_for_100_million_rows_of_length_1() -> None:
    assert Grid.of(1.0, 100_000_000).step <= 2.0**-25
    assert Grid.of(1.0, 1_281_167).step <= 2.0**-31


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cluster_sums__are_those_of_the_members(scale: float) -> None:
    rows_NQ = (scale * unit_rows(1000, 200)).astype(np.float32)
    cluster_N = (np.arange(1000) % 7).astype(np.int32)
    sums = ClusterSums(8, 200, Grid.of(largest_of(rows_NQ), 1000))

    for part in np.array_split(np.arange(1000), 3):
        sums.add(rows_NQ[part], cluster_N[part])

    sum_KQ, count_K = sums.total()
    expected_KQ = [rows_NQ[cluster_N == k].sum(axis=0, dtype=np.float64) for k in range(8)]
    np.testing.assert_allclose(sum_KQ, expected_KQ, rtol=1e-9, atol=1e-9 * scale)
    assert count_K.tolist() == [143] * 6 + [142, 0]


def test_cluster_sums__do_not_depend_on_order_parts_or_ranks() -> None:
    # Values of very different magnitude, whose float64 sums differ from order to order.
    generator = np.random.default_rng(0)
    scale_N1 = 10.0 ** generator.uniform(-6, 0, (3000, 1))
    rows_NQ = (scale_N1 * unit_rows(3000, 256)).astype(np.float32)
    cluster_N = generator.integers(5, size=3000).astype(np.int32)
    grid = Grid.of(largest_of(rows_NQ), 3000)

    def summed(ranks: Ranks) -> bytes:
        own = own_rows(3000, ranks, unit=100)
        sums = ClusterSums(5, 256, grid)
        for start in reversed(own[::37]):
            rows = slice(start, min(start + 37, own.stop))
            part = ClusterSums(5, 256, grid)
            part.add(rows_NQ[rows], cluster_N[rows])
            sums.include(part)
        return sums.total(ranks)[0].tobytes()

    whole = ClusterSums(5, 256, grid)
    whole.add(rows_NQ, cluster_N)
    expected = whole.total()[0].tobytes()
    for size in (1, 2, 3, 4):
        assert set(on_ranks(size, summed)) == {expected}


def test_sum_of_squares__is_equal_on_ranks() -> None:
    rows_NQ = unit_rows(3000, 40, length=3.0)

    def squares(ranks: Ranks) -> float:
        own = own_rows(3000, ranks, unit=100)
        part_NQ = rows_NQ[own.start : own.stop]
        return sum_of_squares(part_NQ, largest=3.0, num_rows=3000, ranks=ranks)

    (alone,) = on_ranks(1, squares)
    assert alone == pytest.approx(9 * 3000, rel=1e-6)
    for size in (2, 3, 7):
        assert set(on_ranks(size, squares)) == {alone}
