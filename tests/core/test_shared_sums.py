"""Threads as the ranks of one machine: they map the same memory as processes would."""

# torch.distributed lists only some of its public names.
# pyright: reportPrivateImportUsage=false

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore

from deepcluster_core.errors import RanksError
from deepcluster_core.shared_sums import SLOT_BYTES, SharedSums
from tests.support.timeouts import WITHIN_S

T = TypeVar("T")

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="shares memory on Linux alone; elsewhere gloo is used"
)


def on_threads(
    size: int, work: Callable[[SharedSums, int], T], *, timeout_s: float = WITHIN_S
) -> list[T]:
    """Call a function as each of so many ranks."""
    store = HashStore()

    def rank(number: int) -> T:
        shared = SharedSums.opened(store, rank=number, size=size, timeout_s=timeout_s)
        assert shared is not None
        return work(shared, number)

    with ThreadPoolExecutor(size) as pool:
        return [*pool.map(rank, range(size))]


def part_of(rank: int, count: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    return (1000 * torch.rand(count, generator=generator)).to(dtype)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bfloat16])
def test_add_up__adds_in_the_order_of_the_ranks(size: int, dtype: torch.dtype) -> None:
    """The same bits for all, although sums in another order would differ; also over many turns."""
    counts = [1, 0, 1000, 3, 1000]

    def work(shared: SharedSums, rank: int) -> list[Tensor]:
        totals = [part_of(rank, count, dtype) for count in counts]
        for total in totals:
            shared.add_up(total)
        return totals

    found = on_threads(size, work)

    for number, count in enumerate(counts):
        expected = part_of(0, count, dtype)
        for rank in range(1, size):
            expected += part_of(rank, count, dtype)
        for totals in found:
            assert torch.equal(totals[number], expected)


def test_add_up__tensors_of_more_than_a_slot() -> None:
    count = 5 * SLOT_BYTES // 8 + 3

    def work(shared: SharedSums, rank: int) -> Tensor:
        total = part_of(rank, count, torch.float64).view(-1, 1)
        shared.add_up(total)
        return total

    first, second = on_threads(2, work)

    assert torch.equal(first, second)
    expected = part_of(0, count, torch.float64) + part_of(1, count, torch.float64)
    assert torch.equal(first.flatten(), expected)


def test_add_up__a_rank_that_is_slow_to_read_reads_its_own_turn() -> None:
    """The others are a turn ahead at most, so that they never write over what it still reads."""
    slow = threading.Event()

    def work(shared: SharedSums, rank: int) -> list[float]:
        found: list[float] = []
        for turn in range(200):
            total = torch.tensor([float(turn)])
            if rank == turn % 3:
                slow.wait(0.001)
            shared.add_up(total)
            found.append(float(total))
        return found

    assert on_threads(3, work) == [[3.0 * turn for turn in range(200)]] * 3


def test_add_up__different_sizes_raise_on_every_rank() -> None:
    def work(shared: SharedSums, rank: int) -> str:
        with pytest.raises(RanksError, match=r"different sizes, in bytes: \[12, 16\]") as raised:
            shared.add_up(torch.zeros(3 + rank))
        return str(raised.value)

    assert len(set(on_threads(2, work))) == 1


def test_add_up__does_not_wait_longer_than_it_may() -> None:
    def work(shared: SharedSums, rank: int) -> None:
        if rank == 0:
            with pytest.raises(RuntimeError, match="timed out"):
                shared.add_up(torch.zeros(3))

    on_threads(2, work, timeout_s=0.3)


@pytest.mark.parametrize("missing", ["memfd_create", "posix_fallocate", "pidfd_open"])
def test_opened__nothing_is_shared_where_one_rank_cannot(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, missing, refuse)
    store = HashStore()

    with ThreadPoolExecutor(3) as pool:
        opened = pool.map(
            lambda rank: SharedSums.opened(store, rank=rank, size=3, timeout_s=1), range(3)
        )
        assert [*opened] == [None, None, None]
