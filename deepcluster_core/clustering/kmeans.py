"""K-means. Suffixes: N rows, S sampled, Q dimensions, K clusters, E empty."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from deepcluster_core.clustering.device_rows import ProjectedOnDevice, points_of
from deepcluster_core.clustering.faiss_index import Library, library_for
from deepcluster_core.clustering.fit import Fit
from deepcluster_core.clustering.least_size import Blocks, Quota
from deepcluster_core.clustering.lloyd import iterate
from deepcluster_core.clustering.nearest import UNIT_ROWS, Nearest, search_rows
from deepcluster_core.clustering.points import DevicePoints, Points
from deepcluster_core.clustering.rows import ClusterIds, Floats, RowIds, Rows
from deepcluster_core.errors import FeatureError
from deepcluster_core.progress import Progress, silent
from deepcluster_core.ranks import ALONE, Ranks, own_rows
from deepcluster_core.seeding import numpy_generator


@dataclass(frozen=True)
class KMeans:
    """K-means as in section 3.4, and a final assignment of all rows.

    Centroids start at `k` different random rows. After each update of the centroids, empty clusters
    are refilled as described in section 3.3. For each, a donor cluster is drawn with a probability
    proportional to the donor's rows minus one. The empty cluster takes the donor's centroid, and
    the two move apart: one is multiplied by 1 + 1/1024 in even and 1 - 1/1024 in odd coordinates,
    the other the reverse. The next assignment divides the donor's rows between them.

    The authors used faiss, whose rules these are. The paper calls the perturbation random; that of
    faiss, and ours, is not, in direction or size. faiss is still used here to find the nearest
    centroids, or torch on a GPU that faiss cannot use. But sums of rows are exact, where faiss
    rounds them to float32, and random numbers follow from the seed, where faiss draws donors with a
    fixed seed of its own. Results are therefore as good as those of faiss, but not equal to them.

    Clusters can still end empty, and `Fit.num_empty` counts them: the last refill may attract no
    row, and if many rows are equal there are fewer distinct rows than clusters.

    Spherical k-means (Dhillon and Modha 2001) scales centroids to length 1 at the start and after
    each update. The nearest centroid is then the one with the largest inner product, whatever the
    length of the row. The exception is a centroid whose rows cancel to zero: it stays zero.

    Ranks divide the rows among them. On a CPU, the result has the same bytes for any number of
    ranks, if each computes with as many threads.
    """

    k: int
    iterations: int = 20
    """Number of iterations, all of which run; 20 in the authors' code."""
    spherical: bool = False
    max_points_per_centroid: int | None = None
    """Learn the centroids from a random sample of `k` times this many rows, without repetition.

    None: use all rows.
    """
    start_N: ClusterIds | None = None
    """Start at the means of these clusters, ids 0 to k - 1, which keeps their ids.

    An empty cluster starts at a random row. None: all centroids start at random rows.
    """
    least_size: float | None = None
    """Each cluster has at least this share of the mean number of rows N / k, rounded down.

    It holds in the last iterations, so that centroids follow the rows that their clusters get
    (Bradley, Bennett and Demiriz 2000), and in the final assignment; `least_size.Quota` finds the
    clusters. None: any size.
    """
    library: Library | None = None
    """What finds the nearest centroids; None for the default of the device, see `library_for`."""

    def fit(
        self,
        rows: Rows,
        *,
        seed: int,
        device: str = "cpu",
        progress: Progress = silent,
        ranks: Ranks = ALONE,
    ) -> Fit:
        """Find `k` clusters.

        Args:
            rows: finite; in the paper whitened, and scaled to length 1. All ranks pass all rows.
            seed: 0 to 2^63 - 1; decides the first centroids, the donors for empty clusters, and the
                sample if there is one.
            device: a torch device; `cuda:1` computes on that GPU alone. If torch searches, the rows
                stay there during all iterations, if they fit.
            progress: receives the number of rows assigned after the fit.
            ranks: the processes that compute together.

        Returns:
            The fit. Only the first rank has the clusters and distances of the rows; on the others
            these arrays are empty.

        Raises:
            FeatureError: `k` is below 2 or above the number of rows, a row is not finite, or
                `start_N` has ids above `k` - 1 or a different number of rows.
        """
        assert self.least_size is None or ranks.size == 1
        self._check(rows.num_rows)
        library = self.library or library_for(device)
        sample_S = self._sample(rows.num_rows, seed)
        points = self._points(rows, sample_S, ranks, device if library == "torch" else None)
        _check_finite(points, sample_S)
        centroids_KQ, objective = iterate(
            points,
            self._start(points, sample_S, seed),
            iterations=self.iterations,
            seed=seed,
            spherical=self.spherical,
            device=device,
            library=library,
            least=self._least(points.num_points),
        )
        # All rows get a cluster, and not only those of the sample.
        block_rows = search_rows(rows.num_rows, device)
        nearest = Nearest(centroids_KQ, device=device, block_rows=block_rows, library=library)
        if sample_S is None:
            cluster_N, distance_N, blocks = _assigned_points(points, nearest, progress)
        else:
            cluster_N, distance_N, blocks = _assigned_rows(rows, nearest, ranks, progress)
        quota = Quota(blocks, centroids_KQ, self._least(rows.num_rows), device)
        cluster_N, distance_N = quota.fill(cluster_N, distance_N)
        cluster_N, distance_N = _gathered(cluster_N, distance_N, ranks)
        return Fit(centroids_KQ, cluster_N, distance_N, points.num_points, objective)

    def _points(
        self, rows: Rows, sample_S: RowIds | None, ranks: Ranks, held_on: str | None
    ) -> Points | DevicePoints:
        """Return the rows of this rank to learn from; `held_on` is the device that holds them."""
        num_points = rows.num_rows if sample_S is None else len(sample_S)
        own = own_rows(num_points, ranks, unit=UNIT_ROWS)
        return points_of(rows, sample_S, own, ranks=ranks, device=held_on, k=self.k)

    def _least(self, num_rows: int) -> int:
        """Return the least number of rows in a cluster; 0 if any number is allowed."""
        if self.least_size is None:
            return 0
        # A share such as 0.3 is not exact in binary, and 0.3 x 100 / 10 is less than 3.
        return math.floor(self.least_size * num_rows / self.k + 1e-9)

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

    def _start(self, points: Points | DevicePoints, sample_S: RowIds | None, seed: int) -> Floats:
        """Return the centroids to start from. All ranks draw the same positions of rows."""
        generator = numpy_generator(seed, "start")
        if self.start_N is None:
            return points.at(generator.choice(points.num_points, self.k, replace=False))
        start_S = self.start_N if sample_S is None else self.start_N[sample_S]
        own_start_S = start_S[points.own.start : points.own.stop]
        sums = points.sums_of(own_start_S, self.k)
        centroids_KQ, count_K = sums.means(ranks=points.ranks)
        # A cluster without members has no mean and starts at a random row of its own.
        empty_E = np.flatnonzero(count_K == 0)
        random_E = generator.choice(points.num_points, len(empty_E), replace=False)
        centroids_KQ[empty_E] = points.at(random_E)
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


def _assigned_points(
    points: Points | DevicePoints, nearest: Nearest, progress: Progress
) -> tuple[ClusterIds, Floats, Blocks]:
    """Return cluster_N and distance_N of this rank's rows, and the rows in blocks.

    The points are all rows, which need not be computed again.
    """
    cluster_N, distance_N = points.assign(nearest, progress)
    return cluster_N, distance_N, partial(points.blocks, nearest.block_rows)


def _assigned_rows(
    rows: Rows, nearest: Nearest, ranks: Ranks, progress: Progress
) -> tuple[ClusterIds, Floats, Blocks]:
    """Return cluster_N and distance_N of this rank's rows, and the rows in blocks.

    The points are a sample, and not necessarily of the rows that this rank assigns.
    """
    own = own_rows(rows.num_rows, ranks, unit=UNIT_ROWS)
    blocks = partial(rows.blocks, own)
    if nearest.is_on_device and isinstance(rows, ProjectedOnDevice):
        found = nearest.assign_on_device(rows.on_device(own), own, rows.num_rows, progress=progress)
    else:
        found = nearest.assign_blocks(blocks(), own, rows.num_rows, progress=progress)
    return *found, blocks


def _check_finite(points: Points | DevicePoints, sample_S: RowIds | None) -> None:
    """Raise FeatureError on all ranks if a row of any rank is not finite."""
    bad = points.not_finite()
    first_bad: int | None = None
    if len(bad):
        position = points.own[int(bad[0])]
        first_bad = position if sample_S is None else int(sample_S[position])
    found = points.ranks.gather((len(bad), first_bad), "rows that are not finite")
    points.ranks.on_first(lambda: _raise_if_bad(found, points.num_points), "rows are finite")


def _raise_if_bad(found: list[tuple[int, int | None]] | None, num_rows: int) -> None:
    """Raise FeatureError if any rank has found a row that is not finite."""
    first_rows = [first for _, first in found or () if first is not None]
    if first_rows:
        num_bad = sum(number for number, _ in found or ())
        raise FeatureError(
            f"{num_bad} of {num_rows} feature rows are not finite, the first at row "
            f"{first_rows[0]}.\n"
            "  Cause: training diverged.\n"
            "  Fix:   continue from an earlier checkpoint with a smaller learning rate."
        )


def _gathered(cluster_N: ClusterIds, distance_N: Floats, ranks: Ranks) -> tuple[ClusterIds, Floats]:
    """Return the arrays of all ranks on the first one; empty arrays on the others."""
    clusters = ranks.gather(cluster_N, "clusters of rows")
    distances = ranks.gather(distance_N, "distances of rows")
    if clusters is None or distances is None:
        return cluster_N[:0], distance_N[:0]
    if ranks.size == 1:  # without a copy
        return cluster_N, distance_N
    return np.concatenate(clusters), np.concatenate(distances)
