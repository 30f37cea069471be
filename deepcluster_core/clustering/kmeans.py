"""K-means with faiss. Suffixes: N rows, S sampled, Q dimensions, K clusters, E empty, B block."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deepcluster_core.clustering.faiss_index import exact_index, train_centroids
from deepcluster_core.clustering.fit import BLOCK_ROWS, Fit, distances, means_of
from deepcluster_core.clustering.rows import ClusterIds, Floats, InMemory, RowIds, Rows
from deepcluster_core.errors import FeatureError
from deepcluster_core.progress import Progress, silent
from deepcluster_core.seeding import numpy_generator

FAISS_SEEDS = 2**31 - 1
"""Seeds must be below this: faiss takes them as int32, and negative ones mean the clock."""


@dataclass(frozen=True)
class KMeans:
    """K-means with faiss, the implementation of section 3.4, and a final assignment of all rows.

    Centroids start at `k` different random rows. After each update of the centroids, faiss refills
    empty clusters as described in section 3.3. For each, it draws a donor cluster with a
    probability proportional to the donor's rows minus one. The empty cluster takes the donor's
    centroid, and the two move apart: one is multiplied by 1 + 1/1024 in even and 1 - 1/1024 in odd
    coordinates, the other the reverse. The next assignment divides the donor's rows between them.
    The paper calls this perturbation random; that of faiss is not, in direction or size, and faiss
    draws donors with a fixed seed of its own.

    Clusters can still end empty, and `Fit.num_empty` counts them: the last refill may attract no
    row, and if many rows are equal there are fewer distinct rows than clusters.

    Spherical k-means (Dhillon and Modha 2001) scales centroids to length 1 at the start and after
    each update. The nearest centroid is then the one with the largest inner product, whatever the
    length of the row. The exception is a centroid whose rows cancel to zero: it stays zero.
    """

    k: int
    iterations: int = 20
    """Number of iterations, all of which run; 20 in the authors' code."""
    spherical: bool = False
    max_points_per_centroid: int | None = None
    """Learn the centroids from a random sample of `k` times this many rows, without repetition.

    Memory then holds the sample and one block of rows instead of all rows. None: use all rows.
    """
    start_N: ClusterIds | None = None
    """Start at the means of these clusters, ids 0 to k - 1, which keeps their ids.

    An empty cluster starts at a random row. None: all centroids start at random rows.
    """

    def fit(
        self, rows: Rows, *, seed: int, device: str = "cpu", progress: Progress = silent
    ) -> Fit:
        """Find `k` clusters.

        Args:
            rows: finite; in the paper whitened, and scaled to length 1.
            seed: 0 to 2^63 - 1; decides the first centroids, and the sample if there is one.
            device: a torch device; `cuda:1` computes on that GPU alone. Without GPU support, faiss
                computes on the CPU; see `faiss_index.reason_for_cpu`.
            progress: receives the number of rows assigned after the fit.

        Raises:
            FeatureError: `k` is below 2 or above the number of rows, a row is not finite, or
                `start_N` has ids above `k` - 1 or a different number of rows.
        """
        self._check(rows.num_rows)
        sample_S = self._sample(rows.num_rows, seed)
        if sample_S is None:
            points_SQ = rows.all()
            rows = InMemory(points_SQ)  # assign these rows without computing them again
        else:
            points_SQ = rows.take(sample_S)
        _check_finite(points_SQ)
        centroids_KQ, objective = self._train(points_SQ, sample_S, seed=seed, device=device)
        fitted_on = len(points_SQ)
        del points_SQ  # free the memory of a sample
        cluster_N, distance_N = assign(rows, centroids_KQ, device=device, progress=progress)
        return Fit(centroids_KQ, cluster_N, distance_N, fitted_on, objective)

    def _sample(self, num_rows: int, seed: int) -> RowIds | None:
        """Return the ids of the rows to learn from, ascending; None for all rows."""
        if self.max_points_per_centroid is None:
            return None
        size = self.k * self.max_points_per_centroid
        if size >= num_rows:
            return None
        generator = numpy_generator(seed, "sample")
        sample_S = generator.choice(num_rows, size, replace=False, shuffle=False)
        return np.sort(sample_S)

    def _train(
        self, points_SQ: Floats, sample_S: RowIds | None, *, seed: int, device: str
    ) -> tuple[Floats, tuple[float, ...]]:
        """Return centroids_KQ and the objective."""
        width = points_SQ.shape[1]
        index = exact_index(width, device=device, inner_product=self.spherical)
        centroids_KQ, objective = train_centroids(
            points_SQ,
            k=self.k,
            index=index,
            start_KQ=self._start(points_SQ, sample_S, seed),
            niter=self.iterations,
            spherical=self.spherical,
            seed=seed % FAISS_SEEDS,
            # Never stop early. faiss sums the objective in float32, where a sum of 24 M ones was
            # measured to saturate at 2^24; a version that stops when the objective is constant
            # would stop after two iterations. Versions without the option run all iterations.
            early_stop_threshold=-1.0,
            min_points_per_centroid=1,  # suppress a warning on stderr; `k` is checked already
            # Rounded up, so that faiss uses all rows: they are sampled already.
            max_points_per_centroid=math.ceil(len(points_SQ) / self.k),
        )
        if self.spherical:  # faiss sums inner products; |x - c|^2 is |x|^2 + 1 - 2 x·c
            sum_of_squares = np.einsum("sq,sq->", points_SQ, points_SQ, dtype=np.float64)
            objective = sum_of_squares + len(points_SQ) - 2 * objective
        return centroids_KQ, tuple(objective.tolist())

    def _start(self, points_SQ: Floats, sample_S: RowIds | None, seed: int) -> Floats | None:
        """Return the centroids to start from; None for random rows."""
        if self.start_N is None:
            return None
        start_S = self.start_N if sample_S is None else self.start_N[sample_S]
        centroids_KQ = means_of(points_SQ, start_S, k=self.k)
        # A cluster without members has no mean and starts at a random row of its own.
        size_K = np.bincount(start_S, minlength=self.k)
        empty_E = np.flatnonzero(size_K == 0)
        generator = numpy_generator(seed, "start")
        random_E = generator.choice(len(points_SQ), len(empty_E), replace=False)
        centroids_KQ[empty_E] = points_SQ[random_E]
        return centroids_KQ

    def _check(self, num_rows: int) -> None:
        """Check the settings before faiss does, to report errors by the recipe's keys."""
        if self.k < 2:
            raise FeatureError(f"cluster.k is {self.k}, but clustering needs at least 2 clusters.")
        if self.k > num_rows:
            raise FeatureError(
                f"cluster.k is {self.k}, but there are only {num_rows} images to cluster.\n"
                f"  Fix:   set cluster.k to at most {num_rows}, or add images."
            )
        if self.start_N is None:
            return
        highest = int(self.start_N.max())
        if len(self.start_N) != num_rows or highest >= self.k:
            raise FeatureError(
                f"cluster.warm_start: the clusters to start from are {highest + 1} of "
                f"{len(self.start_N)} images, but {self.k} of {num_rows} are required.\n"
                "  Cause: they were made with a different cluster.k or of other images.\n"
                "  Fix:   set cluster.warm_start to false, or cluster.k to its former value."
            )


class Nearest:
    """Finds the nearest centroids of rows, repeatedly; the centroids stay on the device."""

    def __init__(self, centroids_KQ: Floats, *, device: str = "cpu") -> None:
        """Build the index.

        Args:
            centroids_KQ: float32.
            device: a torch device; near ties may be decided differently on a GPU and on the CPU.
        """
        # faiss expands |x - c|^2 into products. Subtracting the mean reduces cancellation.
        self._centre_Q = centroids_KQ.mean(axis=0)
        centred_KQ = centroids_KQ - self._centre_Q
        self._centred_KQ = np.ascontiguousarray(centred_KQ, dtype=np.float32)
        self._lowest_K = _lowest_equal(centroids_KQ)
        self._index = exact_index(centroids_KQ.shape[1], device=device)
        self._index.add(self._centred_KQ)

    def assign(
        self, rows: Rows, *, progress: Progress = silent, block_rows: int = BLOCK_ROWS
    ) -> tuple[ClusterIds, Floats]:
        """Return cluster_N and distance_N: the nearest centroids and their Euclidean distances.

        Of equally near centroids the one with the lowest id is chosen; for identical centroids this
        is guaranteed. The rows need not be those that the centroids were fitted on.

        Args:
            rows: rows projected by the PCA that the centroids belong to.
            progress: receives the number of assigned rows after each block.
            block_rows: the most rows searched at once.
        """
        cluster_N = np.empty(rows.num_rows, np.int32)
        distance_N = np.empty(rows.num_rows, np.float32)
        start = 0
        for rows_BQ in _in_pieces(rows, block_rows):
            here = slice(start, start + len(rows_BQ))
            centred_BQ = rows_BQ - self._centre_Q
            centred_BQ = np.ascontiguousarray(centred_BQ, dtype=np.float32)
            _, found = self._index.search(centred_BQ, 1)
            nearest_B = found[:, 0]
            # Of equal centroids, faiss may find any; take the one with the lowest id.
            cluster_N[here] = self._lowest_K[nearest_B]
            distance_N[here] = distances(centred_BQ, self._centred_KQ, cluster_N[here])
            start = here.stop
            progress(start, rows.num_rows)
        return cluster_N, distance_N


def assign(
    rows: Rows, centroids_KQ: Floats, *, device: str = "cpu", progress: Progress = silent
) -> tuple[ClusterIds, Floats]:
    """Return cluster_N and distance_N as `Nearest.assign` does, for callers that assign once."""
    return Nearest(centroids_KQ, device=device).assign(rows, progress=progress)


def _in_pieces(rows: Rows, block_rows: int) -> Iterator[Floats]:
    """Yield all rows, at most `block_rows` at a time."""
    for block_BQ in rows.blocks():
        for start in range(0, len(block_BQ), block_rows):
            yield block_BQ[start : start + block_rows]


def _lowest_equal(centroids_KQ: Floats) -> RowIds:
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
    return np.array(lowest)


def _check_finite(rows_NQ: Floats) -> None:
    """Raise FeatureError if a row is not finite."""
    # A sum is finite only if all terms are, and it needs no N x Q mask.
    with np.errstate(invalid="ignore"):  # inf - inf
        sum_N = rows_NQ.sum(axis=1)
    bad_N = ~np.isfinite(sum_N)
    if bad_N.any():
        raise FeatureError(
            f"{int(bad_N.sum())} of {len(rows_NQ)} feature rows are not finite, the first at row "
            f"{int(bad_N.argmax())}.\n"
            "  Cause: training diverged.\n"
            "  Fix:   continue from an earlier checkpoint with a smaller learning rate."
        )
