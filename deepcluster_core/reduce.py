"""Sums over ranks, without knowing who the ranks are.

Core code is written for one device. Where a number depends on the rows of all ranks, its function
takes a `Reduce` and hands it a partial sum; every rank must call it equally often, in the same
order and with the same shapes, or the ranks wait for each other for ever.
"""

from collections.abc import Callable

from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over all ranks, the same on each, with the shape and dtype given."""


def identity(partial: Tensor) -> Tensor:
    """Return the sum over one rank: what was given."""
    return partial
