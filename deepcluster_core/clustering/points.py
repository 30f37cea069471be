"""The rows that k-means learns from, in main memory or on a device.

Suffixes: S rows to learn from, B block, Q dimensions, K clusters, J requested rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepcluster_core.clustering.exact import ClusterSums, Grid, sum_of_squares
from deepcluster_core.clustering.nearest import Nearest
from deepcluster_core.clustering.rows import ClusterIds, Floats, RowIds
from deepcluster_core.clustering.torch_index import on_device
from deepcluster_core.progress import Progress, silent
from deepcluster_core.ranks import ALONE, Ranks

CHECKED_ROWS = 2**14
"""Rows checked at once, to avoid temporary arrays as large as all rows."""


@dataclass(frozen=True)
class Points:
    """Rows in main memory, or in a file mapped to it, of which this rank has a share."""

    own_SQ: Floats
    """The rows of this rank, all finite."""
    own: range
    """Their positions among the rows of all ranks."""
    num_points: int
    """Number of rows of all ranks."""
    largest: float
    """A bound on the magnitude of the values on all ranks."""
    ranks: Ranks = ALONE

    def at(self, position_J: RowIds) -> Floats:
        """Return the rows at these positions, whichever ranks have them."""
        is_own_J = (position_J >= self.own.start) & (position_J < self.own.stop)
        rows_JQ = np.zeros((len(position_J), self.own_SQ.shape[1]), np.float32)
        rows_JQ[is_own_J] = self.own_SQ[position_J[is_own_J] - self.own.start]
        return _of_all_ranks(rows_JQ, self.ranks)

    def new_sums(self, k: int) -> ClusterSums:
        """Return sums for `k` clusters that are exact over the rows of all ranks."""
        grid = Grid.of(self.largest, self.num_points)
        return ClusterSums(k, self.own_SQ.shape[1], grid)

    def sum_of_squares(self) -> float:
        """Return the sum of the squared lengths of the rows of all ranks."""
        return sum_of_squares(
            self.own_SQ, largest=self.largest, num_rows=self.num_points, ranks=self.ranks
        )

    def blocks(self, block_rows: int) -> Iterator[Floats]:
        """Yield the rows of this rank in blocks; the last one may be smaller."""
        for start in range(0, len(self.own), block_rows):
            yield self.own_SQ[start : start + block_rows]

    def assign(self, nearest: Nearest, progress: Progress = silent) -> tuple[ClusterIds, Floats]:
        """Return cluster_S and distance_S of the rows of this rank; see `Nearest.assign_blocks`."""
        blocks = self.blocks(nearest.block_rows)
        return nearest.assign_blocks(blocks, self.own, self.num_points, progress=progress)

    def sums_of(self, cluster_S: ClusterIds, k: int) -> ClusterSums:
        """Return the sums of the rows of this rank by these clusters."""
        sums = self.new_sums(k)
        sums.add(self.own_SQ, cluster_S)
        return sums

    def sums_by_nearest(self, nearest: Nearest) -> ClusterSums:
        """Return the sums of the rows of this rank by nearest centroid, if torch searches.

        The rows are copied to the device one block after another, and summed up there.
        """
        grid = Grid.of(self.largest, self.num_points)
        width = self.own_SQ.shape[1]
        sums = ClusterSums(nearest.num_centroids, width, grid, device=nearest.device)
        for block_BQ in self.blocks(nearest.block_rows):
            rows_BQ = on_device(block_BQ, nearest.device)
            sums.add_on_device(rows_BQ, nearest.find_on_device(rows_BQ))
        return sums

    def not_finite(self) -> RowIds:
        """Return the positions, among the rows of this rank, of those that are not finite."""
        bad: list[RowIds] = [np.empty(0, np.int64)]
        for start in range(0, len(self.own), CHECKED_ROWS):
            # A sum is finite only if all terms are, and it needs no mask of all values.
            with np.errstate(invalid="ignore", over="ignore"):  # inf - inf
                sum_B = self.own_SQ[start : start + CHECKED_ROWS].sum(axis=1, dtype=np.float64)
            bad.append(start + np.flatnonzero(~np.isfinite(sum_B)))
        return np.concatenate(bad)


@dataclass(frozen=True)
class DevicePoints:
    """Rows on a device, which torch searches and sums up there; otherwise like `Points`.

    The sums have the same bits as those of the CPU if the rows are in the same clusters.
    """

    own_SQ: Tensor
    own: range
    num_points: int
    largest: float
    ranks: Ranks = ALONE

    def at(self, position_J: RowIds) -> Floats:
        """Return the rows at these positions, whichever ranks have them."""
        is_own_J = (position_J >= self.own.start) & (position_J < self.own.stop)
        own_position = torch.from_numpy(position_J[is_own_J] - self.own.start)
        rows_JQ = np.zeros((len(position_J), self.own_SQ.shape[1]), np.float32)
        rows_JQ[is_own_J] = self.own_SQ[own_position.to(self.own_SQ.device)].cpu().numpy()
        return _of_all_ranks(rows_JQ, self.ranks)

    def new_sums(self, k: int) -> ClusterSums:
        """Return sums on the device for `k` clusters, exact over the rows of all ranks."""
        grid = Grid.of(self.largest, self.num_points)
        return ClusterSums(k, self.own_SQ.shape[1], grid, device=self.own_SQ.device)

    def sum_of_squares(self) -> float:
        """Return the sum of the squared lengths of the rows of all ranks."""
        return sum_of_squares(
            self.own_SQ, largest=self.largest, num_rows=self.num_points, ranks=self.ranks
        )

    def blocks(self, block_rows: int) -> Iterator[Floats]:
        """Yield the rows of this rank in blocks, copied to main memory one after another."""
        for rows_BQ in self._parts(block_rows):
            yield rows_BQ.cpu().numpy()

    def assign(self, nearest: Nearest, progress: Progress = silent) -> tuple[ClusterIds, Floats]:
        """Return cluster_S and distance_S of the rows of this rank; see `Nearest.assign_blocks`."""
        parts = self._parts(nearest.block_rows)
        return nearest.assign_on_device(parts, self.own, self.num_points, progress=progress)

    def sums_of(self, cluster_S: ClusterIds, k: int) -> ClusterSums:
        """Return the sums of the rows of this rank by these clusters."""
        sums = self.new_sums(k)
        id_S = torch.from_numpy(cluster_S.astype(np.int64))
        sums.add_on_device(self.own_SQ, id_S.to(self.own_SQ.device))
        return sums

    def sums_by_nearest(self, nearest: Nearest) -> ClusterSums:
        """Return the sums of the rows of this rank by nearest centroid."""
        sums = self.new_sums(nearest.num_centroids)
        for rows_BQ in self._parts(nearest.block_rows):
            sums.add_on_device(rows_BQ, nearest.find_on_device(rows_BQ))
        return sums

    def not_finite(self) -> RowIds:
        """Return the positions, among the rows of this rank, of those that are not finite."""
        bad: list[RowIds] = [np.empty(0, np.int64)]
        for number, rows_BQ in enumerate(self._parts(CHECKED_ROWS)):
            is_bad_B = ~rows_BQ.sum(dim=1, dtype=torch.float64).isfinite()
            bad.append(number * CHECKED_ROWS + np.flatnonzero(is_bad_B.cpu().numpy()))
        return np.concatenate(bad)

    def _parts(self, num_rows: int) -> Iterator[Tensor]:
        # `split` would return one part without rows where there are none.
        for start in range(0, len(self.own), num_rows):
            yield self.own_SQ[start : start + num_rows]


def _of_all_ranks(rows_JQ: Floats, ranks: Ranks) -> Floats:
    """Return rows of which each rank has set its own, and left zeros for the others."""
    # All ranks but one add zeros. A sum with zero also turns -0.0 into 0.0 on a single rank.
    return ranks.sum(torch.from_numpy(rows_JQ + 0.0), "rows of other ranks").numpy()
