"""Ranks: the processes that make one artifact together, each with its share of the rows.

A stage finds them in `context.ranks`. By default a stage runs in one process, `ALONE`, for which
every method is the identity. All ranks must make the same calls in the same order and with the same
shapes, because each call waits for the others. What all must agree on (random draws, eigenvectors)
is therefore made by the first rank only, with `on_first`, or follows from numbers that all have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # torch is slow to import
    from torch import Tensor, nn

T = TypeVar("T")
Batch = TypeVar("Batch")
"""A description of a batch, such as the image_ids in it."""

_EXCHANGES = ("torch.distributed", "gloo/", "NCCL")
"""What errors of torch about other ranks mention, in their text or the module of their class."""


class Ranks(Protocol):
    """The processes that run a stage together; this process is number `rank` of `size`."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    @property
    def local_rank(self) -> int:
        """The number of this process among those on its machine, from 0."""
        ...

    @property
    def moved_bytes(self) -> Mapping[str, int]:
        """The bytes that this rank has sent, by the name of the call."""
        ...

    def sum(self, partial: "Tensor", name: str) -> "Tensor":
        """Return the sum of a tensor over all ranks, bit-identical on each of them.

        Args:
            partial: this rank's part, of the same shape and dtype on every rank; not changed.
            name: what is summed, for messages and for `moved_bytes`.
        """
        ...

    def gather(self, value: T, name: str) -> list[T] | None:
        """Return the values of all ranks, in their order, on the first rank; None on the others."""
        ...

    def on_first(self, make: Callable[[], T], name: str) -> T:
        """Call a function on the first rank only, and return its result on all ranks.

        An error that it raises is raised on all ranks. Unlike in other calls, the others wait for
        the first rank without a time limit, so that it may work alone for hours, in this call or
        before it.
        """
        ...

    def any(self, flag: bool, name: str) -> bool:
        """Return whether the flag is true on any rank."""
        ...

    def barrier(self, name: str) -> None:
        """Wait until all ranks have arrived."""
        ...

    def sum_in_step(self, partial: "Tensor") -> "Tensor":
        """Return the sum of a tensor over all ranks, for the many small sums of a training step.

        Unlike with `sum`, the tensor stays on its device, and nothing checks that all ranks make
        the same call.
        """
        ...

    def wrap(self, module: "nn.Module") -> "nn.Module":
        """Return a module whose backward pass leaves the mean of all ranks' gradients on each rank.

        It computes what `module` computes and has the same weights, whose values on the first rank
        are given to all ranks. Buffers are not exchanged. All ranks must run the same layers, also
        those with an empty batch. The means are bit-identical on all ranks, and do not depend on
        how many backward passes went before.
        """
        ...

    def exchanging(self, name: str) -> AbstractContextManager[None]:
        """Explain errors about other ranks in a block, such as a backward pass after `wrap`."""
        ...


class Alone:
    """A single process, which has nobody to wait for."""

    rank = 0
    size = 1
    local_rank = 0
    moved_bytes: Mapping[str, int] = {}

    def sum(self, partial: "Tensor", name: str) -> "Tensor":
        """Return the tensor itself."""
        return partial

    def gather(self, value: T, name: str) -> list[T] | None:
        """Return the value in a list."""
        return [value]

    def on_first(self, make: Callable[[], T], name: str) -> T:
        """Call the function and return its result."""
        return make()

    def any(self, flag: bool, name: str) -> bool:
        """Return the flag."""
        return flag

    def barrier(self, name: str) -> None:
        """Return at once."""

    def sum_in_step(self, partial: "Tensor") -> "Tensor":
        """Return the tensor itself."""
        return partial

    def wrap(self, module: "nn.Module") -> "nn.Module":
        """Return the module itself."""
        return module

    def exchanging(self, name: str) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()


ALONE: Ranks = Alone()


def own_rows(num_rows: int, ranks: Ranks, *, unit: int) -> range:
    """Return the rows that this rank works on: consecutive ones, in whole units.

    Rank r has the units [r U / R, (r + 1) U / R) of all U units. Where a unit begins depends on the
    number of rows alone, so that whatever is computed unit by unit has the same bits for any number
    of ranks. With fewer units than ranks, some ranks have no rows.

    Args:
        num_rows: number of rows of all ranks.
        ranks: the ranks.
        unit: rows in a unit; the last one may have fewer.
    """
    num_units = -(-num_rows // unit)
    first_unit = ranks.rank * num_units // ranks.size
    end_unit = (ranks.rank + 1) * num_units // ranks.size
    return range(min(first_unit * unit, num_rows), min(end_unit * unit, num_rows))


def is_of_exchange(error: Exception) -> bool:
    """Return whether an error of torch is about other ranks."""
    texts = (type(error).__module__, str(error))
    return any(library in text for text in texts for library in _EXCHANGES)


def in_turns(
    batches: Sequence[Batch],
    compute: Callable[[Sequence[Batch]], Iterator[T]],
    ranks: Ranks,
    name: str,
) -> Iterator[T]:
    """Yield the results of all batches, in order, on the first rank; nothing on the others.

    The ranks take turns: with R of them, rank r computes batches r, r + R and so on, and sends each
    result to the first rank. All ranks must read the iterator to its end. Memory holds one result
    of each rank, so this is for results that are used once, as they come.

    Args:
        batches: the batches of all ranks, described in any way.
        compute: returns the results of some of these batches, in order. A result is sent pickled,
            so it must not lie on a GPU if there are several ranks.
        ranks: the ranks.
        name: what is computed, for messages and for `moved_bytes`.
    """
    if ranks.size == 1:
        yield from compute(batches)
        return
    # The first rank may still work on results of earlier batches, for any time.
    ranks.on_first(lambda: None, f"begin of {name}")
    results = compute(batches[ranks.rank :: ranks.size])
    for first in range(0, len(batches), ranks.size):
        # In the last turn, there may be fewer batches than ranks.
        has_batch = first + ranks.rank < len(batches)
        result = next(results) if has_batch else None
        for received in ranks.gather(result, name) or []:
            if received is not None:
                yield received
    next(results, None)  # ends the threads that load batches
