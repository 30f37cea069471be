"""Power iteration clustering.

Suffixes: N rows, Q dimensions, B block, M neighbours, E edges, K clusters, S single rows, J those
of them that join a cluster.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from deepcluster_core.clustering.faiss_index import exact_index, load_faiss
from deepcluster_core.clustering.fit import BLOCK_ROWS, Fit, fit_of_members
from deepcluster_core.clustering.pic_config import PicConfig
from deepcluster_core.clustering.rows import ClusterIds, Floats, Rows
from deepcluster_core.errors import FeatureError
from deepcluster_core.progress import Progress, silent
from deepcluster_core.ranks import ALONE, Ranks

Ids = NDArray[np.integer]


@dataclass(frozen=True)
class Pic:
    """Power iteration clustering, which finds the number of clusters itself.

    Section 1 names it as an alternative to k-means (Lin and Cohen 2010); this is the variant that
    the authors used. Rows are connected to their nearest neighbours by edges of weight
    w = exp(-|x - y|^2 / sigma^2). W is the sum of these edges in both directions. Starting with
    v = 1/N,

        v <- alpha / N + (1 - alpha) W v,    scaled to sum 1,

    so that v becomes large where rows are dense. From each row, a path climbs to the neighbour with
    the largest w (v_there - v_here), while that is positive. The rows whose paths end at one summit
    are a cluster. On a plateau, which copies of an image form, the summit is the lowest row. A
    cluster of a single row joins that of the row's nearest neighbour that is not single itself.

    New images are assigned to the nearest mean of members, which is not part of the method. Some of
    the clustered rows, too, are nearer to the mean of a different cluster.

    The search for neighbours computes N^2 distances: 90 seconds for 200,000 rows of 256 dimensions
    on two cores with AVX-512, and 40 times that for ImageNet, which should be searched on a GPU.
    """

    settings: PicConfig
    block_rows: int = BLOCK_ROWS
    """Rows whose neighbours are searched at once; the result does not depend on it."""

    def fit(
        self,
        rows: Rows,
        *,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress = silent,
        ranks: Ranks = ALONE,
    ) -> Fit:
        """Find clusters; memory is needed for the rows, plus about 500 bytes per row.

        Args:
            rows: whitened features of length 1, finite.
            seed: ignored, because the algorithm is deterministic.
            device: a torch device for the search for neighbours.
            progress: receives the number of rows whose neighbours are found.
            ranks: ignored; the algorithm runs on a single one.

        Raises:
            FeatureError: there are too few rows for the neighbours, all rows are in one cluster, or
                most rows are in clusters of their own.
        """
        rows_NQ = rows.all()
        neighbours = self.settings.neighbours
        if len(rows_NQ) <= neighbours:
            raise FeatureError(
                f"cluster.pic.neighbours is {neighbours}, but there are only {len(rows_NQ)} "
                f"images.\n  Fix:   set it to at most {len(rows_NQ) - 1}, or add images."
            )
        # Connect each row to its neighbours.
        nearest_NM, squared_NM = _neighbours(
            rows_NQ, neighbours, device=device, progress=progress, block_rows=self.block_rows
        )
        squared_sigma = self.settings.sigma**2
        weight_NM = np.exp(-squared_NM / squared_sigma)
        graph = _graph(nearest_NM, weight_NM)
        del squared_NM, weight_NM  # the graph has its own copy
        # Climb from each row to its summit; the rows of a summit are a cluster.
        height_N = self._heights(graph)
        next_N = _upwards(graph, height_N)
        cluster_N = _join_single(_summits(next_N), nearest_NM)
        num_clusters = int(cluster_N.max()) + 1
        self._check(num_clusters=num_clusters, num_rows=len(rows_NQ))
        return fit_of_members(rows_NQ, cluster_N)

    def _heights(self, graph: scipy.sparse.csr_array) -> NDArray[np.float64]:
        """Return numbers with the order of v.

        They are the last W v, of which v is an increasing function. If weights are far below alpha,
        as between rows more than 3 sigma apart, rounding would make all values of v itself equal.
        """
        num_rows = len(graph.indptr) - 1
        alpha = self.settings.alpha
        v_N = np.full(num_rows, 1 / num_rows)
        for _ in range(self.settings.iterations - 1):
            product_N = np.asarray(graph @ v_N)
            v_N = alpha / num_rows + (1 - alpha) * product_N
            v_N /= v_N.sum()
        return np.asarray(graph @ v_N)

    def _check(self, *, num_clusters: int, num_rows: int) -> None:
        if num_clusters > num_rows / 2:
            raise FeatureError(
                f"cluster.pic.sigma is {self.settings.sigma}, which gives {num_clusters} clusters "
                f"of {num_rows} images.\n"
                "  Cause: the distances are so many times sigma that all weights are 0.\n"
                "  Fix:   set a larger one; rows of length 1 are mostly 0.5 to 1.5 apart."
            )


def _neighbours(
    rows_NQ: Floats, count: int, *, device: str, progress: Progress, block_rows: int
) -> tuple[Ids, NDArray[np.float64]]:
    """Return the ids and squared distances of each row's nearest other rows, nearest first."""
    num_rows = len(rows_NQ)
    nearest_NM = np.empty((num_rows, count), np.int32)
    squared_NM = np.empty((num_rows, count), np.float64)
    index = None
    if device != "cpu":
        index = exact_index(rows_NQ.shape[1], device=device)
        index.add(rows_NQ)
    for start in range(0, num_rows, block_rows):
        end = min(start + block_rows, num_rows)
        rows_BQ = rows_NQ[start:end]
        # One more than wanted, because a row's nearest is the row itself.
        if index is None:  # search the array directly, because an index would copy it
            squared_BL, nearest_BL = load_faiss().knn(rows_BQ, rows_NQ, count + 1)
        else:
            squared_BL, nearest_BL = index.search(rows_BQ, count + 1)
        others_BL = _others(nearest_BL, np.arange(start, end))
        nearest_BM = nearest_BL[others_BL].reshape(-1, count)
        nearest_NM[start:end] = nearest_BM
        squared_BM = squared_BL[others_BL].reshape(-1, count)
        squared_NM[start:end] = squared_BM.clip(min=0)  # rounding can make them negative
        progress(end, num_rows)
    return nearest_NM, squared_NM


def _others(nearest_BL: Ids, own_B: Ids) -> NDArray[np.bool_]:
    """Return which of the L = M + 1 rows found are not the row itself.

    A row with many copies may not find itself; the last of the L rows is left out then.
    """
    others_BL = nearest_BL != own_B[:, None]
    is_not_found_B = others_BL.all(axis=1)
    others_BL[is_not_found_B, -1] = False
    return others_BL


def _graph(nearest_NM: Ids, weight_NM: NDArray[np.float64]) -> scipy.sparse.csr_array:
    """Return W (N, N): the sum of the edges and their reverses."""
    num_rows, count = nearest_NM.shape
    # Compressed rows: each row has `count` edges, so the ends of the rows are equally spaced.
    ends_N = np.arange(0, num_rows * count + 1, count)
    edges = (weight_NM.ravel(), nearest_NM.ravel(), ends_N)
    one_way = scipy.sparse.csr_array(edges, shape=(num_rows, num_rows))
    both_ways = one_way + one_way.T
    return both_ways.tocsr()


def _upwards(graph: scipy.sparse.csr_array, height_N: NDArray[np.float64]) -> Ids:
    """Return the next row on the path upwards from each row; a summit leads to itself.

    Of equally good neighbours the one with the lowest id is taken. At each step the height rises,
    or it stays and the id falls, so paths cannot form a cycle.
    """
    num_rows = len(height_N)
    ids_N = np.arange(num_rows, dtype=np.int32)
    num_edges_N = np.diff(graph.indptr)
    from_E = np.repeat(ids_N, num_edges_N)
    to_E = graph.indices
    rise_E = height_N[to_E] - height_N[from_E]
    gain_E = graph.data * rise_E
    best_N = np.zeros(num_rows)
    np.maximum.at(best_N, from_E, gain_E)
    best_E = best_N[from_E]
    # A step leads to a best neighbour, or on a plateau to an equally high row with a lower id.
    is_step_E = (gain_E > 0) & (gain_E == best_E)
    is_level_E = (best_E == 0) & (rise_E == 0)
    is_lower_id_E = (graph.data > 0) & (to_E < from_E)
    is_step_E |= is_level_E & is_lower_id_E
    # Take the lowest id of several steps; a row without any keeps `num_rows` and is a summit.
    next_N = np.full(num_rows, num_rows)
    np.minimum.at(next_N, from_E[is_step_E], to_E[is_step_E])
    has_step_N = next_N < num_rows
    return np.where(has_step_N, next_N, np.arange(num_rows))


def _summits(next_N: Ids) -> Ids:
    """Return the end of the path from each row; each round doubles the length followed."""
    while True:
        further_N = next_N[next_N]
        if np.array_equal(further_N, next_N):
            return next_N
        next_N = further_N


def _join_single(summit_N: Ids, nearest_NM: Ids) -> ClusterIds:
    """Return cluster_N, with ids from 0 in the order of the summits' rows.

    A cluster of a single row joins that of its nearest neighbour that is not single, if any.
    """
    rows_at_summit_N = np.bincount(summit_N, minlength=len(summit_N))
    size_N = rows_at_summit_N[summit_N]
    single_S = np.flatnonzero(size_N == 1)
    # Which neighbours of the single rows can be joined, and for which rows there are any.
    can_join_SM = size_N[nearest_NM[single_S]] > 1
    can_join_S = can_join_SM.any(axis=1)
    joining_J = single_S[can_join_S]
    place_J = can_join_SM[can_join_S].argmax(axis=1)
    neighbour_J = nearest_NM[joining_J, place_J]
    joined_N = summit_N.copy()
    joined_N[joining_J] = summit_N[neighbour_J]
    # Number the summits that are left from 0.
    _, cluster_N = np.unique(joined_N, return_inverse=True)
    return cluster_N.astype(np.int32)
