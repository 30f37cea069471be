"""Rows to cluster. Suffixes: N rows, S sampled, Q dimensions, D raw dimensions, B block."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Raw = NDArray[np.floating]

PROJECT_ROWS = 1024
"""Rows in one product. Intermediate results of many more are returned to the system and cleared
anew for each block: 200,000 rows of 4,096 take 3.0 s in blocks of 16,384 and 1.7 s in these."""

YIELD_ROWS = 16 * PROJECT_ROWS
"""Rows in a block that `Projected` yields; a search for nearest centroids is slow in small ones."""


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
    """Rows made from stored features as they are read: in memory is a block, not all of them.

    A row has the same bytes however it is read: with any size of the blocks that `read` yields, and
    as one of all rows or of a sample. Libraries promise that only for products of the same shape,
    because on many processors they compute the rows at the edge of a product in another order. So
    every product has `PROJECT_ROWS` rows, and row i always is row i % PROJECT_ROWS of its product.
    """

    num_rows: int
    width: int
    """Q, after the projection."""
    read: Callable[[], Iterator[Raw]]
    """Yields raw rows (B, D) from the first to the last, anew at each call."""
    project: Callable[[Raw], Floats]
    """Turns raw rows (B, D) into rows (B, Q), each independently of the others."""

    def blocks(self) -> Iterator[Floats]:
        """Yield all rows, `YIELD_ROWS` at a time, the last ones possibly fewer."""
        per_block = YIELD_ROWS // PROJECT_ROWS
        products = self._products()
        for start in range(0, self.num_rows, YIELD_ROWS):
            rows = min(YIELD_ROWS, self.num_rows - start)
            yield self._filled(rows, islice(products, per_block))

    def all(self) -> Floats:
        """Return all rows: N x Q x 4 bytes."""
        return self._filled(self.num_rows, self._products())

    def take(self, ids_S: NDArray[np.int64]) -> Floats:
        """Return S rows: S x Q x 4 bytes. Everything is read; products without them are left out.

        A sample from all parts of the rows is therefore projected as slowly as all rows are. That
        is a small part of a clustering: the PCA takes D / Q times as long.
        """
        return self._filled(len(ids_S), self._taken(ids_S))

    def _products(self) -> Iterator[Floats]:
        """Yield all rows as they are projected, without the padding."""
        for raw_BD in _in_pieces(self.read(), PROJECT_ROWS):
            yield self._product(raw_BD)

    def _taken(self, ids_S: NDArray[np.int64]) -> Iterator[Floats]:
        start = 0
        for raw_BD in _in_pieces(self.read(), PROJECT_ROWS):
            first, end = np.searchsorted(ids_S, (start, start + len(raw_BD)))
            if first < end:
                yield self._product(raw_BD)[ids_S[first:end] - start]
            start += len(raw_BD)

    def _product(self, raw_BD: Raw) -> Floats:
        """Return rows (B, Q) of raw rows that begin at a multiple of `PROJECT_ROWS`."""
        num_missing = PROJECT_ROWS - len(raw_BD)
        if num_missing:  # the last rows: the shape must not depend on how many they are
            padded = np.zeros((PROJECT_ROWS, raw_BD.shape[1]), raw_BD.dtype)
            padded[: len(raw_BD)] = raw_BD
            return self.project(padded)[: len(raw_BD)]
        return self.project(raw_BD)

    def _filled(self, num_rows: int, blocks: Iterator[Floats]) -> Floats:
        """Return consecutive blocks as one array, without holding both."""
        rows_NQ = np.empty((num_rows, self.width), np.float32)
        start = 0
        for block_BQ in blocks:
            rows_NQ[start : start + len(block_BQ)] = block_BQ
            start += len(block_BQ)
        return rows_NQ


def _in_pieces(blocks: Iterable[Raw], size: int) -> Iterator[Raw]:
    """Yield the same rows, `size` at a time, the last ones possibly fewer."""
    parts: list[Raw] = []
    missing = size
    for block_BD in blocks:
        start = 0
        while start < len(block_BD):
            parts.append(block_BD[start : start + missing])
            start += len(parts[-1])
            missing -= len(parts[-1])
            if missing == 0:
                yield _joined(parts)
                parts, missing = [], size
    if parts:
        yield _joined(parts)


def _joined(parts: list[Raw]) -> Raw:
    """Return consecutive parts as one array; a single part is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
