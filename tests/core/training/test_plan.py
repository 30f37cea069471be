"""Suffixes: K clusters, M draws, N images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepcluster_core.ranks import ALONE, Ranks
from deepcluster_core.training.plan import (
    Cuts,
    Plan,
    _paths,  # pyright: ignore[reportPrivateUsage]
    shared_plan,
)
from tests.support.ranks import on_ranks


def plan() -> Plan:
    return Plan(
        order_M=np.array([2, 0, 1, 2], np.int64),
        cluster_HN=np.array([[1, 0, 2], [0, 0, 1]], np.int32),
        weight_K=np.array([0.5, 2, 1, 0], np.float32),
    )


def soft_plan() -> Plan:
    cluster_HN = plan().cluster_HN
    return replace(
        plan(), second_HN=cluster_HN + 1, second_share_HN=(cluster_HN / 8).astype(np.float16)
    )


@pytest.mark.parametrize("size", [2, 3])
def test_shared_plan__soft_targets_of_this_attempt_alone(tmp_path: Path, size: int) -> None:
    def shared(made: Plan) -> list[Plan]:
        return on_ranks(
            size, lambda ranks: shared_plan(lambda: made, tmp_path, tmp_path / "out", ranks)
        )

    ids_B = np.array([2, 0])
    for one in shared(soft_plan()):
        found, expected = one.second_of(ids_B), soft_plan().second_of(ids_B)
        assert found.keys() == expected.keys() == {"second_HB", "second_share_HB"}
        np.testing.assert_equal(found, expected)
    # As an attempt with other settings leaves it that was killed.
    for path in _paths(tmp_path, tmp_path / "out").values():
        path.write_bytes(b"torn")
    assert [one.second_of(ids_B) for one in shared(plan())] == [{}] * size
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [2, 3])
def test_shared_plan__is_made_once_and_leaves_no_file(tmp_path: Path, size: int) -> None:
    makers: list[int] = []

    def work(ranks: Ranks) -> Plan:
        def make() -> Plan:
            makers.append(ranks.rank)
            return plan()

        return shared_plan(make, tmp_path / "scratch", tmp_path / "out", ranks)

    found = on_ranks(size, work)

    assert makers == [0]
    assert list((tmp_path / "scratch").iterdir()) == []
    for one in found:
        assert one.k == 4
        assert one.order_M.tolist() == [2, 0, 1, 2]
        assert one.order_M.itemsize == 4, "half of what it is made with"
        np.testing.assert_array_equal(one.cluster_HN, plan().cluster_HN)
        np.testing.assert_array_equal(one.weight_K, plan().weight_K)


def test_shared_plan__two_runs_with_one_scratch_folder(tmp_path: Path) -> None:
    """The second run makes its plan while the ranks of the first one have not yet mapped theirs."""
    other = replace(plan(), order_M=np.array([0, 0, 0, 0], np.int64))

    def second_run() -> list[Plan]:
        return on_ranks(
            2, lambda ranks: shared_plan(lambda: other, tmp_path, tmp_path / "other", ranks)
        )

    def work(ranks: Ranks) -> Plan:
        if ranks.rank == 0:
            return shared_plan(plan, tmp_path, tmp_path / "out", ranks)
        assert second_run()[1].order_M.tolist() == [0, 0, 0, 0]
        return shared_plan(plan, tmp_path, tmp_path / "out", ranks)

    found = on_ranks(2, work)

    for one in found:
        assert one.order_M.tolist() == [2, 0, 1, 2]


def test_shared_plan__single_rank_writes_nothing(tmp_path: Path) -> None:
    made = plan()

    assert shared_plan(lambda: made, tmp_path / "scratch", tmp_path / "out", ALONE) is made
    assert not (tmp_path / "scratch").exists()


def test_shared_plan__error_leaves_no_file(tmp_path: Path) -> None:
    class NoLabelsError(Exception):
        pass

    def fail() -> Plan:
        raise NoLabelsError

    with pytest.raises(NoLabelsError):
        on_ranks(2, lambda ranks: shared_plan(fail, tmp_path, tmp_path / "out", ranks))

    assert list(tmp_path.iterdir()) == []


# Cuts


@pytest.mark.parametrize("is_even", [False, True])
@pytest.mark.parametrize(("num_draws", "batch_size"), [(65, 64), (240, 32), (2, 2), (7, 7), (1, 4)])
def test_cuts__every_position_is_in_one_batch(
    num_draws: int, batch_size: int, is_even: bool
) -> None:
    cuts = Cuts(num_draws, batch_size, is_even)

    batches = [cuts.rows(step) for step in range(cuts.num_steps)]

    assert [position for rows in batches for position in rows] == list(range(num_draws))
    assert max(map(len, batches)) <= batch_size
    if is_even:
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_cuts__are_full_batches_or_even_ones() -> None:
    sizes = {
        is_even: [len(Cuts(66, 32, is_even).rows(step)) for step in range(3)]
        for is_even in (False, True)
    }

    assert sizes == {False: [32, 32, 2], True: [22, 22, 22]}


@pytest.mark.parametrize(
    ("num_draws", "batch_size", "is_even", "kept"),
    [
        (65, 64, False, 64),
        (65, 64, True, 65),
        (66, 64, False, 66),
        (5, 2, False, 4),
        (5, 2, True, 4),
        (1, 64, False, 1),
        (1, 64, True, 1),
    ],
)
def test_cuts__no_image_is_alone(num_draws: int, batch_size: int, is_even: bool, kept: int) -> None:
    cuts = Cuts(num_draws, batch_size, is_even).without_single_image()

    assert cuts.num_draws == kept
    smallest = min(len(cuts.rows(step)) for step in range(cuts.num_steps))
    assert smallest > 1 or num_draws == 1
