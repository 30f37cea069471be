"""The nearest centroids of rows. Suffixes: N rows, Q dimensions, K clusters, B block."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from deepcluster_core.clustering.faiss_index import Library, exact_index
from deepcluster_core.clustering.fit import distances
from deepcluster_core.clustering.rows import ClusterIds, Floats, Rows, in_pieces
from deepcluster_core.clustering.torch_index import TorchIndex
from deepcluster_core.progress import Progress, silent

UNIT_ROWS = 8192
"""Rows that are dealt to a rank at once: a multiple of all numbers of rows in a product."""

SEARCH_ROWS = 1024
"""Rows searched at once on a CPU: their products with 1,000 centroids stay in its cache.

At 200,000 x 256 and k = 1,000, blocks of 2,048 rows took 4 % longer on one thread, as long on two.
"""

SEARCH_ROWS_ON_GPU = UNIT_ROWS
"""Rows searched at once on a GPU, for which small blocks are inefficient."""


def search_rows(num_rows: int, device: str) -> int:
    """Return how many rows to search at once, a function of all rows and of the kind of device."""
    most = SEARCH_ROWS if device == "cpu" else SEARCH_ROWS_ON_GPU
    return max(1, min(most, num_rows))


class Nearest:
    """Finds the nearest centroids of rows, repeatedly; the centroids stay on the device.

    All searches have the same number of rows, for which the last ones are filled up with zeros.
    A row at a given place of its block thus has the same nearest centroid however many rows there
    are, and on any rank: libraries guarantee equal digits only for products of equal shape.
    """

    def __init__(
        self,
        centroids_KQ: Floats,
        *,
        device: str = "cpu",
        block_rows: int | None = None,
        library: Library | None = None,
    ) -> None:
        """Build the index.

        Args:
            centroids_KQ: float32.
            device: a torch device; near ties may be decided differently on a GPU and on the CPU.
            block_rows: rows in a search; None for the number that is fastest for many rows.
            library: what searches; None for the default of the device, see `library_for`.
        """
        width = centroids_KQ.shape[1]
        if block_rows is None:
            block_rows = search_rows(UNIT_ROWS, device)
        self.block_rows = block_rows
        self._index = exact_index(width, device=device, library=library)
        self.is_on_device = isinstance(self._index, TorchIndex)
        """Whether torch searches, so that rows may lie on the device."""
        self.is_concurrent = device == "cpu" and not self.is_on_device
        """Whether several threads may call `find` at once, as an index on a GPU does not allow."""
        self.move_to(centroids_KQ)

    def move_to(self, centroids_KQ: Floats) -> None:
        """Replace the centroids by other ones."""
        # faiss expands |x - c|^2 into products. Subtracting the mean reduces cancellation.
        self._centre_Q = centroids_KQ.mean(axis=0)
        centred_KQ = centroids_KQ - self._centre_Q
        self._centred_KQ = np.ascontiguousarray(centred_KQ, dtype=np.float32)
        self._lowest_K = _lowest_equal(centroids_KQ)
        self._index.reset()
        self._index.add(self._centred_KQ)
        if isinstance(self._index, TorchIndex):
            arrays = [self._centre_Q, self._centred_KQ, self._lowest_K.astype(np.int64)]
            self._on_device = [torch.from_numpy(array).to(self._index.device) for array in arrays]

    @property
    def device(self) -> torch.device:
        """The device that rows must lie on if torch searches."""
        return self._index.device

    @property
    def num_centroids(self) -> int:
        """K."""
        return len(self._centred_KQ)

    def find(self, rows_NQ: Floats) -> ClusterIds:
        """Return cluster_N, the nearest centroid of each row."""
        cluster_N = np.empty(len(rows_NQ), np.int32)
        buffer_BQ = self._new_buffer()
        for start in range(0, len(rows_NQ), self.block_rows):
            here = slice(start, start + self.block_rows)
            cluster_N[here], _ = self._find(rows_NQ[here], buffer_BQ)
        return cluster_N

    def assign(self, rows: Rows, *, progress: Progress = silent) -> tuple[ClusterIds, Floats]:
        """Return cluster_N and distance_N: the nearest centroids and their Euclidean distances.

        Of equally near centroids the one with the lowest id is chosen; for identical centroids this
        is guaranteed. The rows need not be those that the centroids were fitted on.

        Args:
            rows: rows projected by the PCA that the centroids belong to.
            progress: receives the number of assigned rows after each block.
        """
        num_rows = rows.num_rows
        return self.assign_blocks(rows.blocks(), range(num_rows), num_rows, progress=progress)

    def assign_blocks(
        self, blocks: Iterable[Floats], part: range, num_rows: int, *, progress: Progress = silent
    ) -> tuple[ClusterIds, Floats]:
        """Return cluster_N and distance_N as `assign` does, for some of the rows.

        Args:
            blocks: consecutive rows, in blocks of any size.
            part: their numbers among all rows; the first is at the beginning of a unit.
            num_rows: number of all rows.
            progress: receives the number of rows that all ranks have assigned, if the others are as
                fast as this one.
        """
        cluster_N = np.empty(len(part), np.int32)
        distance_N = np.empty(len(part), np.float32)
        buffer_BQ = self._new_buffer()
        start = 0
        for rows_BQ in in_pieces(blocks, self.block_rows):
            here = slice(start, start + len(rows_BQ))
            cluster_B, centred_BQ = self._find(rows_BQ, buffer_BQ)
            cluster_N[here] = cluster_B
            distance_N[here] = distances(centred_BQ, self._centred_KQ, cluster_B)
            start = here.stop
            progress(start * num_rows // len(part), num_rows)
        return cluster_N, distance_N

    def find_on_device(self, rows_BQ: Tensor) -> Tensor:
        """Return cluster_B, int64, for rows on the device, if torch searches."""
        return self._found_on_device(rows_BQ)[0]

    def assign_on_device(
        self,
        blocks: Iterable[Tensor],
        part: range,
        num_rows: int,
        *,
        progress: Progress = silent,
    ) -> tuple[ClusterIds, Floats]:
        """Return cluster_N and distance_N as `assign_blocks` does, for rows on the device."""
        clusters: list[Tensor] = []
        distances: list[Tensor] = []
        start = 0
        for rows_BQ in blocks:
            cluster_B, centred_BQ = self._found_on_device(rows_BQ)
            _, centred_KQ, _ = self._on_device
            # From the difference, as in `fit.distances`.
            distance_B = torch.linalg.vector_norm(centred_BQ - centred_KQ[cluster_B], dim=1)
            clusters.append(cluster_B.to(torch.int32))
            distances.append(distance_B)
            start += len(rows_BQ)
            progress(start * num_rows // len(part), num_rows)
        if not clusters:  # a rank without rows
            return np.empty(0, np.int32), np.empty(0, np.float32)
        return torch.cat(clusters).cpu().numpy(), torch.cat(distances).cpu().numpy()

    def _found_on_device(self, rows_BQ: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `_find` returns, on the device."""
        centre_Q, _, lowest_K = self._on_device
        centred_BQ = rows_BQ - centre_Q
        return lowest_K[self._index.nearest(centred_BQ)], centred_BQ

    def _new_buffer(self) -> Floats:
        # torch aligns its memory, on which the digits of a product may depend.
        return torch.zeros(self.block_rows, len(self._centre_Q)).numpy()

    def _find(self, rows_BQ: Floats, buffer_BQ: Floats) -> tuple[ClusterIds, Floats]:
        """Return the nearest centroid of each row, and the rows minus the mean of the centroids.

        Args:
            rows_BQ: at most `block_rows` rows.
            buffer_BQ: holds the rows returned.
        """
        num_rows = len(rows_BQ)
        centred_BQ = buffer_BQ[:num_rows]
        np.subtract(rows_BQ, self._centre_Q, out=centred_BQ)
        buffer_BQ[num_rows:] = 0
        _, found = self._index.search(buffer_BQ, 1)
        nearest_B = found[:num_rows, 0]
        # Of equal centroids, faiss may find any; take the one with the lowest id.
        return self._lowest_K[nearest_B], centred_BQ


def assign(
    rows: Rows, centroids_KQ: Floats, *, device: str = "cpu", progress: Progress = silent
) -> tuple[ClusterIds, Floats]:
    """Return cluster_N and distance_N as `Nearest.assign` does, for callers that assign once."""
    return Nearest(centroids_KQ, device=device).assign(rows, progress=progress)


def _lowest_equal(centroids_KQ: Floats) -> ClusterIds:
    """Return, for each centroid, the lowest id of the centroids equal to it.

    A matrix product can round equal columns differently, depending on their position in a tile:
    faiss was observed to scatter rows over 300 equal centroids of 256 dimensions.
    """
    first_with: dict[bytes, int] = {}
    lowest: list[int] = []
    comparable_KQ = centroids_KQ + 0.0  # the sum makes -0.0 equal to 0.0
    for cluster, centroid_Q in enumerate(comparable_KQ):
        values = centroid_Q.tobytes()
        lowest.append(first_with.setdefault(values, cluster))
    return np.array(lowest, np.int32)
