"""Rows that stay on a GPU: stored features, what they are projected to, and points of k-means.

Everything here also works without room on the GPU, by reading or copying again. Nothing has been
measured on one yet.

Suffixes: N rows, S rows to learn from, D raw dimensions, Q dimensions, B block.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepcluster_core.clustering.moments import unit_rows
from deepcluster_core.clustering.points import DevicePoints, Points
from deepcluster_core.clustering.rows import Floats, RowIds, Rows
from deepcluster_core.clustering.scratch import filled, keep_rows
from deepcluster_core.clustering.torch_index import on_device, search_bytes
from deepcluster_core.ranks import Ranks

MARGIN_BYTES = 1 << 30
"""Free memory of a GPU that is left for libraries and for what an estimate misses."""

PCA_MATRICES = 6
"""Matrices D x D in float64 that the PCA holds on a GPU, where D is the width of a feature: the
covariance, a copy, its eigenvectors and the solver's workspace. Counted, not measured."""

COPIED_ROWS = 1 << 16
"""Rows that lie in main memory and are copied to a GPU at once."""

BLOCK_BYTES = 1 << 28
"""Bytes of features, as float32, that are read, copied to a GPU and multiplied at once, if units of
the PCA are smaller: 16,384 rows of 4,096 values. As many again are being read meanwhile."""


def free_bytes(device: str) -> int:
    """Return the bytes of a GPU's memory that tensors can have, with those that torch has kept."""
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept


def block_rows(dim: int) -> int:
    """Return how many rows of `dim` features to read at once: whole units of the PCA."""
    unit = unit_rows(dim)
    return unit * max(1, BLOCK_BYTES // (4 * unit * dim))


def pca_bytes(num_rows: int, dim: int) -> int:
    """Return the bytes that `fit_pca` takes on a GPU for so many rows of `dim` values."""
    # A unit, the same as it was stored, and shifted.
    unit_bytes = 3 * 4 * min(num_rows, unit_rows(dim)) * dim
    return 8 * PCA_MATRICES * min(dim, num_rows) ** 2 + unit_bytes


def projection_bytes(num_rows: int, dim: int) -> int:
    """Return the bytes that it takes on a GPU to project so many rows of `dim` values."""
    # A block as it was stored, as float32, and centred.
    return 3 * 4 * min(num_rows, block_rows(dim)) * dim


def points_bytes(num_rows: int, width: int, k: int) -> int:
    """Return the bytes that k-means takes on a GPU with so many rows there."""
    sums_bytes = 2 * 8 * k * width
    centroids_bytes = 3 * 4 * k * width
    return 4 * num_rows * width + sums_bytes + centroids_bytes + search_bytes(num_rows, k)


class HeldRows:
    """The raw rows of a rank, kept on a device while they are read for the first time."""

    def __init__(self, own: range, *, num_bytes: int, others_bytes: int, device: str) -> None:
        """Decide whether the rows fit.

        Args:
            own: the rows of this rank.
            num_bytes: bytes of these rows.
            others_bytes: the most bytes that anything else will take on the device meanwhile.
            device: the device.
        """
        self.own = own
        self._device = device
        self._fit = num_bytes + others_bytes + MARGIN_BYTES <= free_bytes(device)
        self._blocks: list[tuple[range, Tensor]] = []

    def passing(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield blocks of the own rows, moved to the device, and keep them if all of them fit."""
        start = self.own.start
        for block_BD in blocks:
            moved_BD = block_BD.to(self._device)
            rows = range(start, start + len(moved_BD))
            if self._fit:
                self._blocks.append((rows, moved_BD))
            start = rows.stop
            yield moved_BD

    def read(self, rows: range) -> Iterator[Tensor] | None:
        """Return consecutive rows in blocks on the device; None if not all of them are there."""
        end = self._blocks[-1][0].stop if self._blocks else self.own.start
        if rows.start < self.own.start or rows.stop > end:
            return None
        return self._parts(rows)

    def _parts(self, rows: range) -> Iterator[Tensor]:
        for held, block_BD in self._blocks:
            first, stop = max(rows.start, held.start), min(rows.stop, held.stop)
            if first < stop:
                yield block_BD[first - held.start : stop - held.start]


@dataclass(frozen=True)
class ProjectedOnDevice:
    """Rows that are projected on a GPU while they are read; otherwise like `Projected`.

    Products have any number of rows, because a GPU does not promise equal digits anyway.
    """

    num_rows: int
    width: int
    """Number of dimensions after the projection, Q."""
    read: Callable[[range], Iterator[Tensor]]
    """Yields the raw rows (B, D) of a range on the device; each call starts again."""
    project: Callable[[Tensor], Tensor]
    """Turns raw rows (B, D) into rows (B, Q) of length at most 1 on the device, float32."""
    scratch: Path | None = None
    """Folder for rows that are kept in main memory but do not fit; see `keep_rows`."""

    def on_device(self, rows: range | None = None) -> Iterator[Tensor]:
        """Yield rows in blocks on the device; all rows if no range is given."""
        for raw_BD in self.read(range(self.num_rows) if rows is None else rows):
            yield self.project(raw_BD)

    def taken_on_device(self, ids_S: RowIds) -> Iterator[Tensor]:
        """Yield the rows with these ids, which ascend, in blocks on the device."""
        if len(ids_S) == 0:
            return
        start = int(ids_S[0])
        for raw_BD in self.read(range(start, int(ids_S[-1]) + 1)):
            end = start + len(raw_BD)
            # The requested rows of this block are consecutive, because the ids ascend.
            first_id, end_id = np.searchsorted(ids_S, (start, end))
            if first_id < end_id:
                wanted = torch.from_numpy(ids_S[first_id:end_id] - start)
                yield self.project(raw_BD[wanted.to(raw_BD.device)])
            start = end

    def blocks(self, rows: range | None = None) -> Iterator[Floats]:
        """Yield rows in blocks in main memory; all rows if no range is given."""
        for rows_BQ in self.on_device(rows):
            yield rows_BQ.cpu().numpy()

    def all(self) -> Floats:
        """Return all rows in main memory, which take N x Q x 4 bytes there."""
        return filled(self.blocks(), (self.num_rows, self.width))

    def keep(self, rows: range) -> Floats:
        """Project rows once, and keep them in main memory or in a file."""
        return keep_rows(self.blocks(rows), (len(rows), self.width), self.scratch)

    def take(self, ids_S: RowIds) -> Floats:
        """Return rows_SQ, the rows with these ids, in the manner of `keep`."""
        blocks = (rows_BQ.cpu().numpy() for rows_BQ in self.taken_on_device(ids_S))
        return keep_rows(blocks, (len(ids_S), self.width), self.scratch)

    def largest(self) -> float:
        """Return the bound for rows of length 1; rounding may exceed it in the last digit."""
        return 1.0


def points_of(
    rows: Rows,
    sample_S: RowIds | None,
    own: range,
    *,
    ranks: Ranks,
    device: str | None,
    k: int,
) -> Points | DevicePoints:
    """Return the rows that k-means learns from, on a device if they fit there.

    Args:
        rows: all rows.
        sample_S: ids of the rows to learn from, ascending; None for all rows.
        own: the positions of this rank's rows among those to learn from.
        ranks: the ranks.
        device: a torch device that searches for centroids; None if faiss searches.
        k: number of clusters.
    """
    num_points = rows.num_rows if sample_S is None else len(sample_S)
    own_sample_S = None if sample_S is None else sample_S[own.start : own.stop]
    if device is not None and _fit_on(device, len(own), rows.width, k):
        blocks = _blocks_on(torch.device(device), rows, own, own_sample_S)
        own_SQ = _joined(blocks, (len(own), rows.width), device)
        return DevicePoints(own_SQ, own, num_points, rows.largest(), ranks)
    kept_SQ = rows.keep(own) if own_sample_S is None else rows.take(own_sample_S)
    return Points(kept_SQ, own, num_points, rows.largest(), ranks)


def _fit_on(device: str, num_rows: int, width: int, k: int) -> bool:
    if device == "cpu":
        return True
    return points_bytes(num_rows, width, k) + MARGIN_BYTES <= free_bytes(device)


def _blocks_on(
    device: torch.device, rows: Rows, own: range, own_sample_S: RowIds | None
) -> Iterator[Tensor]:
    """Yield the rows of this rank on the device."""
    if isinstance(rows, ProjectedOnDevice):
        if own_sample_S is None:
            yield from rows.on_device(own)
        else:
            yield from rows.taken_on_device(own_sample_S)
        return
    blocks = rows.blocks(own) if own_sample_S is None else [rows.take(own_sample_S)]
    for rows_BQ in blocks:
        for start in range(0, len(rows_BQ), COPIED_ROWS):
            yield on_device(rows_BQ[start : start + COPIED_ROWS], device)


def _joined(blocks: Iterable[Tensor], shape: tuple[int, int], device: str) -> Tensor:
    """Return blocks as one tensor; unlike `torch.cat`, it holds one block besides it."""
    joined_SQ = torch.empty(shape, dtype=torch.float32, device=device)
    start = 0
    for rows_BQ in blocks:
        joined_SQ[start : start + len(rows_BQ)] = rows_BQ
        start += len(rows_BQ)
    return joined_SQ
