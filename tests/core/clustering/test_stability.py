"""Suffixes: N images."""

import numpy as np
import pytest

from deepcluster_core.clustering.stability import same_cluster, stability


def test_stability__counts_epochs_per_image() -> None:
    current_N = np.array([0, 0, 0, 1, 1, 1])
    renamed_N = np.array([5, 5, 5, 2, 2, 2])  # the same clusters under other ids
    one_moved_N = np.array([1, 1, 0, 0, 0, 0])  # image 2 was with the others

    found = stability(current_N, [renamed_N, one_moved_N])

    assert found is not None
    assert found.epochs == 2
    assert found.mean == pytest.approx((5 * 1 + 0.5) / 6)
    assert found.always == pytest.approx(5 / 6)
    assert found.never == 0


def test_stability__none_without_earlier_epochs() -> None:
    assert stability(np.zeros(3, np.int32), []) is None


def test_same_cluster__a_split_keeps_the_larger_part_and_a_merger_the_larger_source() -> None:
    whole_N, parts_N = np.zeros(10, np.int32), np.repeat([3, 1], [7, 3])
    assert same_cluster(whole_N, parts_N).tolist() == [True] * 7 + [False] * 3
    assert same_cluster(parts_N, whole_N).tolist() == [True] * 7 + [False] * 3


def test_same_cluster__ids_that_do_not_begin_at_0() -> None:
    before_N, current_N = np.array([4, 4, 7, 7]), np.array([9, 9, 2, 2])
    assert same_cluster(before_N, current_N).all()


def test_stability__random_labels_agree_by_chance_only() -> None:
    generator = np.random.default_rng(0)
    current_N, *earlier = generator.integers(10, size=(6, 20_000))
    found = stability(current_N, earlier)
    assert found is not None
    assert found.mean == pytest.approx(0.1, abs=0.02)
    assert found.never == pytest.approx(0.9**5, abs=0.05)
