"""Ranks over torch.distributed, as real processes on the loopback interface."""

# The state of a rank that has not begun is made by hand.
# pyright: reportPrivateUsage=false

import os
import re
import signal
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core.errors import FeatureError, PeerLostError, RanksError
from deepcluster_core.process_group import ProcessGroup
from deepcluster_core.ranks import ALONE, Ranks, own_rows
from tests.support.gloo import on_processes
from tests.support.ranks import on_ranks


def every_call(ranks: Ranks, _: Path) -> dict[str, object]:
    def fail() -> int:
        raise FeatureError("nothing to cluster")

    try:
        ranks.on_first(fail, "failing")
        error = ""
    except FeatureError as raised:
        error = str(raised)
    part = torch.full((2, 3), 2.0**ranks.rank, dtype=torch.float64)
    return {
        "sum": ranks.sum(part, "sum"),
        "part": part,
        "large": ranks.sum(torch.full((100_000,), 2.0**ranks.rank), "large").unique().tolist(),
        "gather": ranks.gather(ranks.rank * 10, "gather"),
        "rows": ranks.gather(np.full(3, ranks.rank, np.int32), "rows"),
        "first": ranks.on_first(lambda: ranks.rank + 7, "first"),
        "any": [ranks.any(ranks.rank == 1, "any"), ranks.any(False, "none")],
        "error": error,
        "moved": [ranks.moved_bytes.get(name, 0) for name in ("sum", "rows")],
    }


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("several_machines", [False, True])
def test_joined__every_call_gives_each_rank_what_is_documented(
    size: int, several_machines: bool, tmp_path: Path
) -> None:
    found = on_processes(size, every_call, tmp_path, several_machines=several_machines)

    for rank, calls in enumerate(found):
        assert isinstance(calls, dict), calls
        torch.testing.assert_close(calls["sum"], torch.full((2, 3), 2.0**size - 1).double())
        torch.testing.assert_close(calls["part"], torch.full((2, 3), 2.0**rank).double())
        assert calls["large"] == [2.0**size - 1]
        assert calls["gather"] == ([rank * 10 for rank in range(size)] if rank == 0 else None)
        assert calls["first"] == 7
        assert calls["any"] == [True, False]
        assert calls["error"] == "nothing to cluster"
        rows = cast("list[NDArray[np.int32]] | None", calls["rows"])
        assert rows is None or [row.tolist() for row in rows] == [[r] * 3 for r in range(size)]
        assert (rows is None) == (rank != 0)
        # Six float64 to the rank without the lowest bit and back, or once into the memory that all
        # share; and three int32 to the first one.
        lowest_bit = rank & -rank or size
        children = [rank | bit for bit in (1, 2, 4) if bit < lowest_bit and rank | bit < size]
        num_sent = len(children) + (rank > 0) if several_machines else 1
        assert calls["moved"] == [48 * num_sent, 0 if rank == 0 else 12]


def different_calls(ranks: Ranks, _: Path) -> None:
    ranks.sum(torch.zeros(3 + ranks.rank), "covariance")


@pytest.mark.slow
def test_joined__different_calls_raise_on_every_rank(tmp_path: Path) -> None:
    found = on_processes(2, different_calls, tmp_path)

    for error in found:
        assert isinstance(error, RanksError)
        assert "rank 0: covariance: torch.float32 (3,)" in str(error)
        assert "rank 1: covariance: torch.float32 (4,)" in str(error)


def one_is_late(ranks: Ranks, _: Path) -> None:
    ranks.barrier("start")
    if ranks.rank == 2:
        time.sleep(12)
    ranks.barrier("centroids")


@pytest.mark.slow
def test_joined__a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    found = on_processes(3, one_is_late, tmp_path, timeout_s=4)

    for error in found[:2]:
        assert isinstance(error, RanksError)
    # The first to give up names the missing rank alone; the other may only notice that it left.
    texts = [str(error) for error in found[:2]]
    (named, *_) = [text for text in texts if "has waited 4 s in 'centroids'" in text]
    assert re.search(r"for rank 2 \(.+, process \d+\)\.", named)


def one_has_not_begun(ranks: Ranks, _: Path) -> str:
    """Ask who is missing while rank 1 is as it was before it published where it runs."""
    group = cast("ProcessGroup", ranks)
    if ranks.rank == 1:
        group.progress._store.delete_key("host 1")
    ranks.barrier("deleted")
    group.progress._num_calls += 1
    missing = group.progress.missing()
    group.progress._num_calls -= 1
    return missing


@pytest.mark.slow
def test_missing__names_a_rank_that_has_not_begun(tmp_path: Path) -> None:
    missing, _ = on_processes(2, one_has_not_begun, tmp_path)

    assert missing == "rank 1 (which has joined, but not begun)"


def first_is_late(ranks: Ranks, _: Path) -> int:
    """Let the first rank work alone for longer than the others wait in other calls."""

    def work() -> int:
        time.sleep(5)
        return 7

    return ranks.on_first(work, "classifiers")


@pytest.mark.slow
def test_on_first__the_others_wait_without_a_time_limit(tmp_path: Path) -> None:
    assert on_processes(2, first_is_late, tmp_path, timeout_s=2) == [7, 7]


def first_is_frozen(ranks: Ranks, folder: Path) -> None:
    ranks.barrier("start")
    if ranks.rank == 0:
        # As by a machine that fails: it ends nothing and reports nothing. The other one lets it go.
        (folder / "process").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    try:
        ranks.on_first(lambda: None, "classifiers")
    finally:
        os.kill(int((folder / "process").read_text()), signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("several_machines", "named"),
    # Of several machines, the first rank itself holds what the ranks tell each other.
    [(False, r"rank 0 \(.+, process \d+\)"), (True, "rank 0, which does not answer")],
)
def test_on_first__a_first_rank_that_is_not_heard_of_is_named(
    several_machines: bool, named: str, tmp_path: Path
) -> None:
    _, error = on_processes(
        2, first_is_frozen, tmp_path, timeout_s=2, several_machines=several_machines
    )

    assert isinstance(error, RanksError)
    assert re.search(rf"has waited 2 s in 'classifiers' for {named}", str(error))


def other_call_than_first(ranks: Ranks, _: Path) -> None:
    if ranks.rank == 0:
        ranks.barrier("centroids")
    else:
        ranks.on_first(lambda: None, "classifiers")


@pytest.mark.slow
def test_on_first__a_different_call_of_the_first_rank_raises_on_every_rank(tmp_path: Path) -> None:
    for error in on_processes(2, other_call_than_first, tmp_path, timeout_s=20):
        assert isinstance(error, RanksError)
        assert "rank 0: centroids: barrier; rank 1: classifiers: on_first" in str(error)


def gradients(ranks: Ranks, _: Path) -> tuple[Tensor, Tensor, int]:
    torch.manual_seed(ranks.rank)  # different weights, which `wrap` replaces by the first rank's
    wrapped = ranks.wrap(nn.Linear(3, 1, bias=False))
    inputs_B3 = torch.eye(3)[: ranks.rank + 1]
    wrapped(inputs_B3).sum().backward()
    (weight,) = wrapped.parameters()
    assert weight.grad is not None
    return weight.grad, ranks.sum_in_step(weight.detach()), ranks.moved_bytes["gradients"]


@pytest.mark.slow
@pytest.mark.parametrize("several_machines", [False, True])
def test_wrap__leaves_the_mean_gradient_everywhere(several_machines: bool, tmp_path: Path) -> None:
    found = on_processes(2, gradients, tmp_path, several_machines=several_machines)

    torch.manual_seed(0)
    twice = 2 * nn.Linear(3, 1, bias=False).weight.detach()
    for result in found:
        assert isinstance(result, tuple), result
        gradient, sum_of_weights, moved = result
        # Rank 0 has the first row of the identity matrix, rank 1 the first two.
        torch.testing.assert_close(gradient, torch.tensor([[1.0, 0.5, 0.0]]))
        torch.testing.assert_close(sum_of_weights, twice)
        assert moved == 12


def backward_with_errors(ranks: Ranks, _: Path) -> str:
    """Fail on both ranks without the network, then let one rank wait for the gradients of both."""
    wrapped = ranks.wrap(nn.Linear(3, 1))
    with pytest.raises(torch.OutOfMemoryError), ranks.exchanging("gradients"):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    if ranks.rank == 1:
        time.sleep(8)
        return "slept"
    with pytest.raises(RanksError) as raised, ranks.exchanging("gradients"):
        wrapped(torch.eye(3)).sum().backward()
    return str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("several_machines", [False, True])
def test_exchanging__names_a_missing_rank_and_leaves_other_errors_alone(
    several_machines: bool, tmp_path: Path
) -> None:
    message, _ = on_processes(
        2, backward_with_errors, tmp_path, timeout_s=4, several_machines=several_machines
    )

    assert "rank 0 has waited 4 s in 'gradients' for rank 1 (" in str(message)


def one_is_killed(ranks: Ranks, _: Path) -> str:
    """Wait for a sum, and for gradients, with a rank that has died."""
    wrapped = ranks.wrap(nn.Linear(3, 1))
    ranks.barrier("start")
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(PeerLostError) as raised:
        ranks.sum_in_step(torch.ones(3))
    with pytest.raises(PeerLostError), ranks.exchanging("gradients"):
        wrapped(torch.eye(3)).sum().backward()
    return str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("several_machines", [False, True])
def test_joined__a_rank_that_dies_is_noticed_at_once(
    several_machines: bool, tmp_path: Path
) -> None:
    (message,) = on_processes(
        2, one_is_killed, tmp_path, several_machines=several_machines, answers=1
    )

    assert "rank 0 has lost the connection to other ranks in 'batch statistics'" in str(message)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_own_rows__cover_all_rows_in_whole_units(size: int) -> None:
    parts = on_ranks(size, lambda ranks: own_rows(1000, ranks, unit=64))

    assert [row for part in parts for row in part] == list(range(1000))
    assert all(part.start % 64 == 0 for part in parts)


def test_own_rows__more_ranks_than_units() -> None:
    parts = on_ranks(4, lambda ranks: own_rows(100, ranks, unit=64))

    assert sorted(len(part) for part in parts) == [0, 0, 36, 64]
    assert own_rows(100, ALONE, unit=64) == range(100)
