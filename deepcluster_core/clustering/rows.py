"""The rows to cluster. Suffixes: N rows, S sampled, Q dimensions, D raw dimensions, B block."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.clustering.scratch import Floats, filled, keep_rows

Raw = NDArray[np.floating]
ClusterIds = NDArray[np.int32]
RowIds = NDArray[np.int64]

PROJECT_ROWS = 1024
"""Rows in one matrix product.

With many more, the memory of intermediate results is returned to the system and cleared again for
each block: 200,000 rows of 4,096 take 3.0 s in blocks of 16,384 rows and 1.7 s in these.
"""

YIELD_ROWS = 16 * PROJECT_ROWS
"""Rows in a block that `Projected` yields; the search for centroids is slow in small blocks."""


class Rows(Protocol):
    """The input of a clustering: reduced features, float32, in the order of image_id.

    Each row has length 1, or 0 if its feature projects to zero. Every rank can read all rows.
    """

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        ...

    @property
    def width(self) -> int:
        """The number of dimensions, Q."""
        ...

    def blocks(self, rows: range | None = None) -> Iterator[Floats]:
        """Yield consecutive rows in blocks (B, Q); all rows if no range is given."""
        ...

    def all(self) -> Floats:
        """Return rows_NQ, all rows in one array in memory."""
        ...

    def keep(self, rows: range) -> Floats:
        """Return consecutive rows for repeated reading; if they are many, they lie in a file."""
        ...

    def take(self, ids_S: RowIds) -> Floats:
        """Return rows_SQ, the rows with these ids, which must ascend, in the manner of `keep`."""
        ...

    def largest(self) -> float:
        """Return a bound on the magnitude of all finite values, a function of the rows alone."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Rows that are in one array already."""

    rows_NQ: Floats

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.rows_NQ)

    @property
    def width(self) -> int:
        """The number of dimensions."""
        return self.rows_NQ.shape[1]

    def blocks(self, rows: range | None = None) -> Iterator[Floats]:
        """Yield the rows as one block."""
        yield self.rows_NQ if rows is None else self.rows_NQ[rows.start : rows.stop]

    def all(self) -> Floats:
        """Return the array itself, or a copy if it is not in C order."""
        return np.ascontiguousarray(self.rows_NQ, dtype=np.float32)

    def keep(self, rows: range) -> Floats:
        """Return a part of the array, or a copy if it is not in C order."""
        return np.ascontiguousarray(self.rows_NQ[rows.start : rows.stop], dtype=np.float32)

    def take(self, ids_S: RowIds) -> Floats:
        """Return a copy of these rows."""
        rows_SQ = self.rows_NQ[ids_S]
        return np.ascontiguousarray(rows_SQ, dtype=np.float32)

    def largest(self) -> float:
        """Return the largest magnitude of all finite values."""
        return largest_of(self.rows_NQ)


@dataclass(frozen=True)
class Projected:
    """Rows projected from stored features while reading, so that memory holds only a block.

    A row is bit-identical however it is read: for any size of the blocks that `read` yields, and
    whether all rows or a sample are read. Libraries guarantee that only for products of equal
    shape, because on many processors they compute the rows at the edge of a product in a different
    order. Every product therefore has `product_rows` rows, and row i is always row
    i % product_rows of its product.
    """

    num_rows: int
    width: int
    """Number of dimensions after the projection, Q."""
    read: Callable[[range], Iterator[Raw]]
    """Yields the raw rows (B, D) of a range from first to last; each call starts again."""
    project: Callable[[Raw], Floats]
    """Turns raw rows (B, D) into rows (B, Q) of length at most 1, each independent of the
    others."""
    scratch: Path | None = None
    """Folder for rows that are kept but do not fit into memory; see `keep_rows`."""
    product_rows: int = PROJECT_ROWS
    """Number of rows in one matrix product."""
    yielded_rows: int = YIELD_ROWS
    """Number of rows in a block: a multiple of `product_rows`."""

    def blocks(self, rows: range | None = None) -> Iterator[Floats]:
        """Yield rows in blocks of `yielded_rows`; the last block may be smaller.

        Args:
            rows: the rows, from a multiple of `product_rows` on; None for all.
        """
        if rows is None:
            rows = range(self.num_rows)
        products_in_block = self.yielded_rows // self.product_rows
        products = self._products(rows)
        for start in range(0, len(rows), self.yielded_rows):
            num_rows = min(self.yielded_rows, len(rows) - start)
            # All blocks take their products from one iterator, so nothing is read twice.
            yield filled(islice(products, products_in_block), (num_rows, self.width))

    def all(self) -> Floats:
        """Return all rows, which take N x Q x 4 bytes of memory."""
        return filled(self._products(range(self.num_rows)), (self.num_rows, self.width))

    def keep(self, rows: range) -> Floats:
        """Project rows once, from a multiple of `product_rows` on, and keep them."""
        return keep_rows(self._products(rows), (len(rows), self.width), self.scratch)

    def take(self, ids_S: RowIds) -> Floats:
        """Return rows_SQ, the rows with these ids; they take S x Q x 4 bytes.

        The raw rows from the first to the last id are read, but only products that contain
        requested rows are computed. A sample spread over all rows therefore takes as long to
        project as all rows. That is a small part of a clustering: the PCA takes D / Q times as
        long.
        """
        return keep_rows(self._taken(ids_S), (len(ids_S), self.width), self.scratch)

    def largest(self) -> float:
        """Return the bound for rows of length 1; rounding may exceed it in the last digit."""
        return 1.0

    def _products(self, rows: range) -> Iterator[Floats]:
        """Yield projected rows, one product at a time, without padding."""
        for raw_BD in in_pieces(self.read(rows), self.product_rows):
            yield self._product(raw_BD)

    def _taken(self, ids_S: RowIds) -> Iterator[Floats]:
        """Yield the projected rows with these ids, from each product that contains any of them."""
        if len(ids_S) == 0:
            return
        # From the beginning of the product that has the first of the rows.
        start = int(ids_S[0]) // self.product_rows * self.product_rows
        raw_rows = range(start, int(ids_S[-1]) + 1)
        for raw_BD in in_pieces(self.read(raw_rows), self.product_rows):
            end = start + len(raw_BD)
            # The requested rows of this piece are consecutive, because the ids ascend.
            first_id, end_id = np.searchsorted(ids_S, (start, end))
            if first_id < end_id:
                wanted = ids_S[first_id:end_id] - start
                yield self._product(raw_BD)[wanted]
            start = end

    def _product(self, raw_BD: Raw) -> Floats:
        """Return rows (B, Q) of raw rows that begin at a multiple of `product_rows`."""
        num_rows, dim = raw_BD.shape
        if num_rows == self.product_rows:
            return self.project(raw_BD)
        # Pad the last rows, so that every product has equal shape.
        padded = np.zeros((self.product_rows, dim), raw_BD.dtype)
        padded[:num_rows] = raw_BD
        return self.project(padded)[:num_rows]


def largest_of(rows_NQ: Floats, *, block_rows: int = PROJECT_ROWS) -> float:
    """Return the largest magnitude of all finite values; 0 without any."""
    largest = 0.0
    for start in range(0, len(rows_NQ), block_rows):
        magnitude_BQ = np.abs(rows_NQ[start : start + block_rows])
        # A maximum ignores no value, so one that is not finite shows in it.
        if not np.isfinite(magnitude_BQ.max(initial=0.0)):
            magnitude_BQ = magnitude_BQ[np.isfinite(magnitude_BQ)]
        largest = max(largest, float(magnitude_BQ.max(initial=0.0)))
    return largest


def in_pieces(blocks: Iterable[Raw], size: int) -> Iterator[Raw]:
    """Yield the rows regrouped into blocks of `size`; the last block may be smaller."""
    parts: list[Raw] = []
    missing = size
    for block_BD in blocks:
        start = 0
        while start < len(block_BD):
            part_BD = block_BD[start : start + missing]
            parts.append(part_BD)
            start += len(part_BD)
            missing -= len(part_BD)
            if missing == 0:
                yield _joined(parts)
                parts = []
                missing = size
    if parts:
        yield _joined(parts)


def _joined(parts: list[Raw]) -> Raw:
    """Return consecutive parts as one array; a single part is not copied."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts)
