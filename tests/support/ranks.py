"""Ranks as threads of the test's own process: the logic of many ranks in milliseconds."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deepcluster_core.ranks import Ranks
from tests.support.timeouts import WITHIN_S

T = TypeVar("T")


@dataclass
class _Board:
    """What the threads share: a place for the value of each of them, and its name."""

    size: int
    values: list[Any] = field(init=False)
    names: list[str] = field(init=False)
    barrier: Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.values = [None] * self.size
        self.names = [""] * self.size
        self.barrier = Barrier(self.size, timeout=WITHIN_S)


class ThreadRank:
    """One of several threads that act as ranks."""

    def __init__(self, rank: int, board: _Board) -> None:
        self.rank = self.local_rank = rank
        self.size = board.size
        self.moved_bytes: dict[str, int] = {}
        self._board = board

    def sum(self, partial: Tensor, name: str) -> Tensor:
        parts = self._exchange(partial.clone(), name)
        assert len({(part.shape, part.dtype) for part in parts}) == 1, f"{name}: shapes differ"
        moved = partial.numel() * partial.element_size()
        self.moved_bytes[name] = self.moved_bytes.get(name, 0) + moved
        return torch.stack(parts).sum(dim=0, dtype=partial.dtype)

    def gather(self, value: T, name: str) -> list[T] | None:
        values = self._exchange(value, name)
        return values if self.rank == 0 else None

    def on_first(self, make: Callable[[], T], name: str) -> T:
        value: Any = None
        error: Exception | None = None
        if self.rank == 0:
            try:
                value = make()
            except Exception as raised:
                error = raised
        value, error = self._exchange((value, error), name)[0]
        if error is not None:
            raise error
        return value

    def any(self, flag: bool, name: str) -> bool:
        return any(self._exchange(flag, name))

    def barrier(self, name: str) -> None:
        self._exchange(None, name)

    def sum_in_step(self, partial: Tensor) -> Tensor:
        return self.sum(partial.detach(), "in a step")

    def wrap(self, module: nn.Module) -> nn.Module:
        def average(weight: Tensor) -> None:
            assert weight.grad is not None
            # In place, because optimisers expect the memory order of the weight.
            weight.grad.copy_(self.sum(weight.grad, "gradient") / self.size)

        # On a CPU, the backward pass and its hooks run in the thread that called it.
        for weight in module.parameters():
            weight.register_post_accumulate_grad_hook(average)
        return module

    def exchanging(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def _exchange(self, value: T, name: str) -> list[T]:
        """Return the values of all threads once every thread has given its own."""
        board = self._board
        board.values[self.rank], board.names[self.rank] = value, name
        board.barrier.wait()
        values, names = list(board.values), set(board.names)
        board.barrier.wait()  # before anybody replaces its value
        assert len(names) == 1, f"ranks make different calls: {names}"
        return values


def on_ranks(size: int, work: Callable[[Ranks], T]) -> list[T]:
    """Call `work` in `size` threads that act as ranks; return their results in order.

    If a rank raises an error, the others stop waiting, and the error is raised.
    """
    board = _Board(size)

    def run(rank: int) -> T:
        try:
            return work(ThreadRank(rank, board))
        except BaseException:
            board.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    # The error that stopped the others, not the broken barrier that they noticed.
    for error in sorted(errors, key=lambda found: isinstance(found, RuntimeError)):
        raise error
    return [future.result() for future in futures]
