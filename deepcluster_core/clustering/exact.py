"""Sums without any rounding, which are therefore equal in any order and for any number of ranks.

Each term is rounded first, to a multiple of a power of two. A float64 holds 53 bits, so sums of
such multiples are exact as long as they need no more bits. Addition of exact numbers is
associative: blocks, threads, ranks and devices no longer change the last digits of a sum.

Suffixes: N rows, B block, C chunk of a block, Q dimensions, K clusters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.clustering.rows import ClusterIds, Floats, RowIds
from deepcluster_core.ranks import ALONE, Ranks

SUM_BITS = 52
"""One less than a float64 has, so that terms may exceed their bound by rounding."""

CHUNK_VALUES = 1 << 16
"""Values converted to float64 at once, which stay in the processor's cache."""

CHUNK_VALUES_ON_DEVICE = 1 << 23
"""Values converted to float64 at once on a GPU, which take 64 MiB."""


@dataclass(frozen=True)
class Grid:
    """The multiples of `step`, a power of two, on which sums of a known size are exact."""

    step: float

    @classmethod
    def of(cls, largest: float, num_terms: int) -> "Grid":
        """Return the finest grid for sums of terms.

        Args:
            largest: a bound on the magnitude of each term, up to rounding; finite.
            num_terms: a bound on the number of terms.
        """
        # At least four terms, because `round_` needs two bits more than a single term has.
        exponent = exponent_of(largest) + exponent_of(max(num_terms, 4))
        return cls(2.0 ** (exponent - SUM_BITS))

    def round_(self, values: Tensor) -> Tensor:
        """Round float64 values to multiples of `step`, in place; return them.

        Beyond 2^52 steps a float64 has no fractions of a step, so the first addition rounds, to the
        nearest multiple and to the even one of two. The result depends on the value alone.
        """
        beyond = 1.5 * 2.0**52 * self.step
        return values.add_(beyond).sub_(beyond)


def exponent_of(value: float) -> int:
    """Return the least e with |value| <= 2^e; for zero, that of the smallest float32."""
    if value == 0:
        return -149
    mantissa, exponent = math.frexp(abs(value))
    return exponent - 1 if mantissa == 0.5 else exponent


class ClusterSums:
    """The sum of the rows of each cluster, exact, and the number of its rows."""

    def __init__(
        self, k: int, width: int, grid: Grid, *, device: torch.device | str = "cpu"
    ) -> None:
        """Begin with no rows.

        Args:
            k: number of clusters.
            width: Q.
            grid: made for the rows of all ranks.
            device: where the sums are computed; they have the same bits on any device.
        """
        self._grid = grid
        self._sum_KQ = torch.zeros(k, width, dtype=torch.float64, device=device)
        self._count_K = torch.zeros(k, dtype=torch.int64, device=device)

    def add(self, rows_BQ: Floats, cluster_B: ClusterIds | RowIds) -> None:
        """Add each row to the sum of its cluster.

        `index_add_` was the fastest way found: 0.15 us a row at k = 1,000 and Q = 256, compared
        with 0.24 for the product with a sparse matrix of ones and 2.7 for sorting and `reduceat`.
        """
        id_B = torch.from_numpy(cluster_B.astype(np.int64))
        self._count_K += id_B.bincount(minlength=len(self._count_K))
        for start, rows_CQ in _chunks(rows_BQ, self._grid):
            self._sum_KQ.index_add_(0, id_B[start : start + len(rows_CQ)], rows_CQ)

    def add_on_device(self, rows_BQ: Tensor, cluster_B: Tensor) -> None:
        """Add rows that are on the device of the sums, like their clusters, int64.

        A GPU adds them in an order of its own, which changes nothing because the sums are exact.
        """
        self._count_K.index_add_(0, cluster_B, torch.ones_like(cluster_B))
        for start, rows_CQ in _chunks_on_device(rows_BQ, self._grid):
            self._sum_KQ.index_add_(0, cluster_B[start : start + len(rows_CQ)], rows_CQ)

    def include(self, other: "ClusterSums") -> None:
        """Add the sums and numbers of other rows, on the same grid."""
        self._sum_KQ += other._sum_KQ
        self._count_K += other._count_K

    def total(self, ranks: Ranks = ALONE) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return sum_KQ and count_K over the rows of all ranks; no row can be added afterwards."""
        sum_KQ = ranks.sum(self._sum_KQ.cpu(), "sums of clusters")
        count_K = ranks.sum(self._count_K.cpu(), "sizes of clusters")
        return sum_KQ.numpy(), count_K.numpy()

    def means(self, ranks: Ranks = ALONE) -> tuple[Floats, NDArray[np.int64]]:
        """Return centroids_KQ, the means over the rows of all ranks, and count_K.

        The mean of an empty cluster is zero.
        """
        sum_KQ, count_K = self.total(ranks)
        return mean_of(sum_KQ, count_K).astype(np.float32), count_K


def mean_of(sum_KQ: NDArray[np.float64], count_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return mean_KQ, the means of the rows with these sums; zero for clusters without rows."""
    return sum_KQ / np.maximum(count_K, 1)[:, None]


def sum_of_squares(
    rows_NQ: Floats | Tensor, *, largest: float, num_rows: int, ranks: Ranks = ALONE
) -> float:
    """Return the sum of the squared lengths of the rows of all ranks.

    The rows are rounded as `ClusterSums` rounds them, and each squared length is rounded again.

    Args:
        rows_NQ: the rows of this rank, in main memory or on any device. The lengths of those on a
            GPU are rounded before that, too, because it adds squares in an order of its own.
        largest: a bound on the magnitude of all values on all ranks.
        num_rows: number of rows of all ranks.
        ranks: the ranks.
    """
    grid = Grid.of(largest, num_rows)
    grid_of_squares = Grid.of(rows_NQ.shape[1] * largest**2, num_rows)
    if isinstance(rows_NQ, Tensor):
        total = torch.zeros((), dtype=torch.float64, device=rows_NQ.device)
        chunks = _chunks_on_device(rows_NQ, grid)
    else:
        total = torch.zeros((), dtype=torch.float64)
        chunks = _chunks(rows_NQ, grid)
    for _, rows_CQ in chunks:
        square_C = rows_CQ.square_().sum(dim=1)
        total += grid_of_squares.round_(square_C).sum()
    return float(ranks.sum(total.cpu(), "sum of squares"))


def _chunks(rows_NQ: Floats, grid: Grid) -> Iterator[tuple[int, Tensor]]:
    """Yield the rows rounded to the grid, as float64, and the number of the first of each chunk.

    A chunk may be changed, and is valid until the next one.
    """
    num_rows, width = rows_NQ.shape
    chunk_rows = max(1, CHUNK_VALUES // width)
    buffer = torch.empty(min(chunk_rows, num_rows), width, dtype=torch.float64)
    for start in range(0, num_rows, chunk_rows):
        part_CQ = rows_NQ[start : start + chunk_rows]
        chunk_CQ = buffer[: len(part_CQ)]
        # NumPy copies, because torch warns about rows that are read-only, such as mapped ones.
        np.copyto(chunk_CQ.numpy(), part_CQ)
        yield start, grid.round_(chunk_CQ)


def _chunks_on_device(rows_NQ: Tensor, grid: Grid) -> Iterator[tuple[int, Tensor]]:
    """Yield what `_chunks` does, for rows on any device."""
    chunk_rows = max(1, CHUNK_VALUES_ON_DEVICE // rows_NQ.shape[1])
    for start in range(0, len(rows_NQ), chunk_rows):
        part_CQ = rows_NQ[start : start + chunk_rows]
        yield start, grid.round_(part_CQ.double())
