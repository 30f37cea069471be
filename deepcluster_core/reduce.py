"""Sums over all ranks, independent of how the ranks communicate.

Core code is written for one device. A function whose result depends on the rows of all ranks takes
a `Reduce` and passes it a partial sum. Every rank must call it equally often, in the same order and
with the same shapes, or the ranks wait for each other forever.
"""

from collections.abc import Callable

from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""A function that returns the sum of a tensor over all ranks, identical on every rank.

The shape and dtype of the tensor are kept.
"""


def identity(partial: Tensor) -> Tensor:
    """Return the tensor unchanged, which is the sum over a single rank."""
    return partial
