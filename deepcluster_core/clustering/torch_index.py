"""Exact search for the nearest vectors, by torch on one device.

It has the methods of faiss's index that are used here, for GPUs that faiss cannot use.

Suffixes: B rows, V vectors, T a tile of the vectors, M nearest ones, Q dimensions.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.clustering.scratch import Floats
from deepcluster_core.precision import exact_float32

TILE_VALUES = 1 << 27
"""Most distances computed at once, which take 512 MiB."""

TILE_ROWS = 8192
"""Most rows searched at once."""


def search_bytes(num_rows: int, num_vectors: int) -> int:
    """Return the bytes that a search takes beside rows and vectors; counted, not measured.

    It is a tile of distances, and as much for what finds the least ones in it.
    """
    tile_rows = min(TILE_ROWS, num_rows)
    tile_vectors = min(TILE_VALUES // TILE_ROWS, num_vectors)
    return 2 * 4 * tile_rows * tile_vectors


class TorchIndex:
    """Vectors on a device, among which it finds the nearest of rows by Euclidean distance.

    Products are computed in float32, never in TF32. Of equally near vectors the one added first is
    found, where its products round alike.
    """

    def __init__(self, width: int, device: str) -> None:
        """Begin without vectors.

        Args:
            width: Q.
            device: a torch device.
        """
        self.device = torch.device(device)
        self._width = width
        self.reset()

    def reset(self) -> None:
        """Remove all vectors."""
        self._vectors_VQ = torch.zeros(0, self._width, device=self.device)
        self._half_square_V = torch.zeros(0, device=self.device)

    def add(self, vectors_VQ: Floats) -> None:
        """Add vectors, float32; they are copied to the device."""
        added_VQ = on_device(vectors_VQ, self.device)
        is_first = len(self._vectors_VQ) == 0
        # Not joined with nothing, because that would be a second copy.
        self._vectors_VQ = added_VQ if is_first else torch.cat([self._vectors_VQ, added_VQ])
        self._half_square_V = self._vectors_VQ.square().sum(dim=1) / 2

    def nearest(self, rows_BQ: Tensor) -> Tensor:
        """Return id_B, the number of the vector nearest to each row; int64 on the device.

        Args:
            rows_BQ: float32 on the device.
        """
        found = [self._nearest_of_few(part_BQ) for part_BQ in rows_BQ.split(TILE_ROWS)]
        return torch.cat(found)

    def search(self, rows_BQ: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
        """Return squared_BM and id_BM of the nearest vectors of each row, nearest first.

        Args:
            rows_BQ: float32 in main memory.
            count: M; at most the number of vectors.
        """
        find = self._nearest_one if count == 1 else self._nearest_some
        squared: list[Tensor] = []
        ids: list[Tensor] = []
        for start in range(0, len(rows_BQ), TILE_ROWS):
            part_BQ = on_device(rows_BQ[start : start + TILE_ROWS], self.device)
            squared_BM, id_BM = find(part_BQ, count)
            squared.append(squared_BM)
            ids.append(id_BM)
        if not ids:
            return np.empty((0, count), np.float32), np.empty((0, count), np.int64)
        return torch.cat(squared).cpu().numpy(), torch.cat(ids).cpu().numpy()

    def _nearest_one(self, rows_BQ: Tensor, _count: int) -> tuple[Tensor, Tensor]:
        """Return squared_B1 and id_B1, of which the first is more exact than products would be."""
        id_B = self._nearest_of_few(rows_BQ)
        away_BQ = rows_BQ - self._vectors_VQ[id_B]
        return away_BQ.square().sum(dim=1, keepdim=True), id_B[:, None]

    def _nearest_of_few(self, rows_BQ: Tensor) -> Tensor:
        """Return id_B for the rows of a tile."""
        best_B: Tensor | None = None
        id_B = torch.zeros(len(rows_BQ), dtype=torch.int64, device=self.device)
        for start, excess_BT in self._tiles(rows_BQ):
            # If several values are least, `min` may return any of them, but `argmin` the first.
            tile_id_B = excess_BT.argmin(dim=1)
            tile_best_B = excess_BT.gather(1, tile_id_B[:, None])[:, 0]
            if best_B is None:
                best_B, id_B = tile_best_B, tile_id_B + start
                continue
            is_nearer_B = tile_best_B < best_B
            best_B = torch.where(is_nearer_B, tile_best_B, best_B)
            id_B = torch.where(is_nearer_B, tile_id_B + start, id_B)
        return id_B

    def _nearest_some(self, rows_BQ: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return squared_BM and id_BM for the rows of a tile."""
        excess_BM = torch.zeros(len(rows_BQ), 0, device=self.device)
        id_BM = torch.zeros(len(rows_BQ), 0, device=self.device, dtype=torch.int64)
        for start, excess_BT in self._tiles(rows_BQ):
            num_kept = min(count, excess_BT.shape[1])
            tile_excess_BM, tile_id_BM = excess_BT.topk(num_kept, dim=1, largest=False)
            excess_BM = torch.cat([excess_BM, tile_excess_BM], dim=1)
            id_BM = torch.cat([id_BM, tile_id_BM + start], dim=1)
            if excess_BM.shape[1] > count:
                excess_BM, kept_BM = excess_BM.topk(count, dim=1, largest=False)
                id_BM = id_BM.gather(1, kept_BM)
        square_B1 = rows_BQ.square().sum(dim=1, keepdim=True)
        return 2 * excess_BM + square_B1, id_BM

    def _tiles(self, rows_BQ: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of the first vector of each tile, and (|v|^2 - 2 r·v) / 2 for it.

        It orders the vectors as their squared distances |r|^2 + |v|^2 - 2 r·v do.
        """
        tile_vectors = TILE_VALUES // TILE_ROWS
        for start in range(0, len(self._vectors_VQ), tile_vectors):
            here = slice(start, start + tile_vectors)
            half_square_T = self._half_square_V[here]
            with _exact(self.device):
                excess_BT = torch.addmm(half_square_T, rows_BQ, self._vectors_VQ[here].T, alpha=-1)
            yield start, excess_BT


def on_device(rows_BQ: Floats, device: torch.device) -> Tensor:
    """Return a copy of rows on a device, float32."""
    copied_BQ = torch.empty(rows_BQ.shape, dtype=torch.float32)
    # NumPy copies, because torch warns about rows that are read-only, such as mapped ones.
    np.copyto(copied_BQ.numpy(), rows_BQ)
    return copied_BQ.to(device)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Compute products in float32 in the block, also if the caller is inside an autocast block."""
    with exact_float32(), torch.autocast(device.type, enabled=False):
        yield
