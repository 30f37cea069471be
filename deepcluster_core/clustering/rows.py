"""Rows to cluster. Suffixes: N rows, S sampled, Q dimensions, D raw dimensions, B block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Raw = NDArray[np.floating]

PROJECT_ROWS = 1024
"""Rows projected at once. Intermediate results of many more are returned to the system and cleared
anew for each block: 200,000 rows of 4,096 take 3.0 s in blocks of 16,384 and 1.7 s in these."""


class Rows(Protocol):
    """What a clustering reads: whitened features, float32, in the order of image_id.

    They are of length 1, or 0 where a feature projects to zero.
    """

    @property
    def num_rows(self) -> int:
        """N."""
        ...

    def blocks(self) -> Iterator[Floats]:
        """Yield all rows, a consecutive block (B, Q) at a time."""
        ...

    def all(self) -> Floats:
        """Return rows_NQ: one big array."""
        ...

    def take(self, ids_S: NDArray[np.int64]) -> Floats:
        """Return rows_SQ, the rows with these ids, which ascend."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Rows that are one array already."""

    rows_NQ: Floats

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.rows_NQ)

    def blocks(self) -> Iterator[Floats]:
        """Yield all rows at once."""
        yield self.rows_NQ

    def all(self) -> Floats:
        """Return the array itself, or a copy where it is not in C order."""
        return np.ascontiguousarray(self.rows_NQ, dtype=np.float32)

    def take(self, ids_S: NDArray[np.int64]) -> Floats:
        """Return a copy of these rows."""
        return np.ascontiguousarray(self.rows_NQ[ids_S], dtype=np.float32)


@dataclass(frozen=True)
class Projected:
    """Rows made from stored features as they are read: in memory is a block, not all of them."""

    num_rows: int
    width: int
    """Q, after the projection."""
    read: Callable[[], Iterator[Raw]]
    """Yields raw rows (B, D) from the first to the last, anew at each call."""
    project: Callable[[Raw], Floats]
    """Turns raw rows (B, D) into rows (B, Q), each independently of the others."""

    def blocks(self) -> Iterator[Floats]:
        """Yield all rows, in blocks as they are read."""
        for raw_BD in self.read():
            yield self._projected(raw_BD)

    def all(self) -> Floats:
        """Return all rows: N x Q x 4 bytes."""
        return self._filled(self.num_rows, self.blocks())

    def take(self, ids_S: NDArray[np.int64]) -> Floats:
        """Read everything, but project these rows only: S x Q x 4 bytes."""
        return self._filled(len(ids_S), self._taken(ids_S))

    def _taken(self, ids_S: NDArray[np.int64]) -> Iterator[Floats]:
        start = 0
        for raw_BD in self.read():
            first, end = np.searchsorted(ids_S, (start, start + len(raw_BD)))
            yield self._projected(raw_BD[ids_S[first:end] - start])
            start += len(raw_BD)

    def _projected(self, raw_BD: Raw) -> Floats:
        starts = range(0, len(raw_BD), PROJECT_ROWS)
        parts = (self.project(raw_BD[start : start + PROJECT_ROWS]) for start in starts)
        return self._filled(len(raw_BD), parts)

    def _filled(self, num_rows: int, blocks: Iterator[Floats]) -> Floats:
        """Return consecutive blocks as one array, without holding both."""
        rows_NQ = np.empty((num_rows, self.width), np.float32)
        start = 0
        for block_BQ in blocks:
            rows_NQ[start : start + len(block_BQ)] = block_BQ
            start += len(block_BQ)
        return rows_NQ
