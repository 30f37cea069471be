"""Clusters of a least size, at the least sum of squared distances.

To give each row a cluster, so that each cluster has at least m rows and the squared distances to
the centroids have the least sum, is a transportation problem. An auction solves it (Bertsekas 1988,
here with least instead of equal numbers). Each cluster has a price, which is what the sum may rise
for one more row, and each row belongs where its squared distance minus the price is least. At first
all prices are zero, as in plain k-means. A cluster with too few rows raises its price until it has
m rows. It takes them from other clusters, which may then have to raise their prices in turn.

Prices only rise, a cluster with a price above zero never has more than m rows, and each row is
within epsilon of its best offer. So, by the duality of linear programming, the sum exceeds the
least possible one by at most N epsilon; see `TOLERANCE`.

Suffixes: N rows, B block, Q dimensions, K clusters, J some clusters, L rows of a list.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core.clustering.fit import distances
from deepcluster_core.clustering.rows import ClusterIds, Floats, in_pieces
from deepcluster_core.metrics import cluster_counts
from deepcluster_core.precision import exact_float32

TOLERANCE = 0.01
"""Most by which the sum of squared distances may exceed the least one, as a share of that of plain
k-means."""

ROUNDING = 2.0**-20
"""Rounding of squared distances, as a share of the largest squared length; epsilon is not below."""

LIST_ROWS = 4
"""Length of a cluster's first list of candidates, as a multiple of the least size, and of each
further list, as a multiple of the length of the former one."""

BLOCK_ROWS = 2**13
BLOCK_VALUES = 2**22
"""Most values in a block of squared distances; each takes some 30 bytes, counting its copies."""

Doubles = NDArray[np.float64]
Blocks = Callable[[], Iterator[Floats]]
"""Yields all rows in blocks of any size; each call starts again."""


@dataclass(frozen=True)
class Quota:
    """A least number of rows for each cluster of given centroids."""

    blocks: Blocks
    centroids_KQ: Floats
    least: int
    """Least number of rows of a cluster: at most N / K, rounded down."""
    device: str = "cpu"
    """A torch device; near ties may be decided differently on a GPU and on the CPU."""

    def fill(self, cluster_N: ClusterIds, distance_N: Floats) -> tuple[ClusterIds, Floats]:
        """Return cluster_N and distance_N with at least `least` rows in each cluster.

        If no cluster has fewer, the arrays are returned as they are.

        Args:
            cluster_N: the nearest centroid of each row.
            distance_N: the Euclidean distance to it.
        """
        k = len(self.centroids_KQ)
        assert k * self.least <= len(cluster_N)
        if cluster_counts(cluster_N, k).min() >= self.least:
            return cluster_N, distance_N
        filled_N = _Auction(self, cluster_N, distance_N).run()
        return filled_N, self._distances(cluster_N, filled_N, distance_N)

    def _distances(self, cluster_N: ClusterIds, filled_N: ClusterIds, distance_N: Floats) -> Floats:
        """Return the distances of all rows; those of rows that stayed are not computed again."""
        distance_N = distance_N.copy()
        start = 0
        for rows_BQ in self.blocks():
            here = slice(start, start + len(rows_BQ))
            moved = np.flatnonzero(cluster_N[here] != filled_N[here])
            moved_to = filled_N[here][moved]
            distance_N[here][moved] = distances(rows_BQ[moved], self.centroids_KQ, moved_to)
            start = here.stop
        return distance_N


@dataclass(frozen=True)
class _Candidates:
    """The rows that may be offered most cheaply to a cluster, and their squared distances to it."""

    row_L: NDArray[np.int64]
    cost_L: Floats
    bound: float
    """No row beside these has an offer below; offers only rise."""


class _Auction:
    """The prices of clusters, and the rows that they have at these."""

    def __init__(self, quota: Quota, cluster_N: ClusterIds, distance_N: Floats) -> None:
        self._quota = quota
        self._cluster_N = cluster_N.copy()
        k = len(quota.centroids_KQ)
        self._count_K = cluster_counts(cluster_N, k)
        self._price_K = np.zeros(k)
        # The squared distance of each row to the centroid of its cluster.
        self._cost_N = np.square(distance_N, dtype=np.float64)
        # Less rounding: rows and centroids relative to the mean of the centroids, as in `Nearest`.
        self._centre_Q = quota.centroids_KQ.mean(axis=0)
        centred_KQ = torch.from_numpy(quota.centroids_KQ - self._centre_Q)
        self._centred_KQ = centred_KQ.to(quota.device)
        largest = float(centred_KQ.square().sum(dim=1).max())
        self._epsilon = max(TOLERANCE * self._cost_N.mean(), ROUNDING * largest)
        self._lists: dict[int, _Candidates] = {}

    def run(self) -> ClusterIds:
        """Return cluster_N with enough rows in each cluster."""
        # Clusters without a list of candidates, or with one that no longer says enough.
        listless = np.flatnonzero(self._count_K < self._quota.least).tolist()
        bidders: deque[int] = deque()
        is_waiting_K = np.zeros(len(self._count_K), np.bool_)
        is_waiting_K[listless] = True
        while listless:
            self._list_candidates(listless)
            bidders.extend(listless)
            listless = []
            while bidders:
                bidder = bidders.popleft()
                donors = self._bid(bidder)
                if donors is None:
                    listless.append(bidder)
                    continue
                is_waiting_K[bidder] = False
                for donor in donors:
                    if self._count_K[donor] < self._quota.least and not is_waiting_K[donor]:
                        is_waiting_K[donor] = True
                        bidders.append(donor)
        return self._cluster_N

    def _bid(self, bidder: int) -> Sequence[int] | None:
        """Take the rows that a cluster lacks; return the clusters that had them.

        Returns None if the cluster needs a new list of candidates.
        """
        candidates = self._lists.get(bidder)
        if candidates is None:
            return None
        needed = self._quota.least - int(self._count_K[bidder])
        owner_L = self._cluster_N[candidates.row_L]
        # What the price must be for a row to come: its best offer elsewhere sets it.
        best_L = self._cost_N[candidates.row_L] - self._price_K[owner_L]
        offer_L = candidates.cost_L - best_L
        offer_L[owner_L == bidder] = np.inf
        if needed >= len(offer_L):
            return None
        cheapest_L = np.argpartition(offer_L, needed)
        next_offer = offer_L[cheapest_L[needed]]
        if next_offer > candidates.bound:
            return None
        # The highest price at which no further row would come by more than epsilon.
        price = max(float(next_offer) + self._epsilon, self._price_K[bidder])
        taken = cheapest_L[:needed]
        row = candidates.row_L[taken]
        owner = owner_L[taken]
        np.subtract.at(self._count_K, owner, 1)
        self._count_K[bidder] += needed
        self._cluster_N[row] = bidder
        self._cost_N[row] = candidates.cost_L[taken]
        self._price_K[bidder] = price
        return np.unique(owner).tolist()

    @exact_float32()
    def _list_candidates(self, clusters: Sequence[int]) -> None:
        """List the rows with the lowest offers for each of these clusters, in a pass over all."""
        by_size: defaultdict[int, list[int]] = defaultdict(list)
        for cluster in clusters:
            # A list that has run out is replaced by a longer one, so that few passes are needed.
            former = self._lists.get(cluster)
            length = self._quota.least if former is None else len(former.row_L)
            by_size[min(max(64, LIST_ROWS * length), len(self._cluster_N))].append(cluster)
        for size, alike in by_size.items():
            at_once = max(1, BLOCK_VALUES // (size + BLOCK_ROWS))
            for start in range(0, len(alike), at_once):
                some = alike[start : start + at_once]
                for cluster, found in zip(some, self._cheapest(some, size), strict=True):
                    self._lists[cluster] = found

    def _cheapest(self, clusters: Sequence[int], size: int) -> Iterator[_Candidates]:
        centroids_JQ = self._centred_KQ[clusters]
        squared_J1 = centroids_JQ.square().sum(dim=1, keepdim=True)
        device = centroids_JQ.device
        offer_JL = torch.empty(len(clusters), 0, device=device)
        cost_JL = torch.empty(len(clusters), 0, device=device)
        row_JL = torch.empty(len(clusters), 0, device=device, dtype=torch.int64)
        start = 0
        for rows_BQ in in_pieces(self._quota.blocks(), BLOCK_ROWS):
            end = start + len(rows_BQ)
            centred_BQ = torch.from_numpy(rows_BQ - self._centre_Q).to(device)
            squared_B = centred_BQ.square().sum(dim=1)
            cost_JB = squared_B + squared_J1 - 2 * (centroids_JQ @ centred_BQ.T)
            cost_JB.clamp_(min=0)
            offer_JB = cost_JB - self._best(start, end).to(device)
            row_JB = torch.arange(start, end, device=device).expand_as(offer_JB)
            offer_JL = torch.cat([offer_JL, offer_JB], dim=1)
            cost_JL = torch.cat([cost_JL, cost_JB], dim=1)
            row_JL = torch.cat([row_JL, row_JB], dim=1)
            if offer_JL.shape[1] > size:
                offer_JL, kept_JL = offer_JL.topk(size, dim=1, largest=False)
                cost_JL, row_JL = cost_JL.gather(1, kept_JL), row_JL.gather(1, kept_JL)
            start = end
        has_all = size >= start
        for offer_L, cost_L, row_L in zip(offer_JL, cost_JL, row_JL, strict=True):
            bound = np.inf if has_all else float(offer_L.max())
            yield _Candidates(row_L.cpu().numpy(), cost_L.cpu().numpy(), bound)

    def _best(self, start: int, end: int) -> torch.Tensor:
        """Return the best offers of consecutive rows at the prices of now, float32."""
        price_B = self._price_K[self._cluster_N[start:end]]
        return torch.from_numpy((self._cost_N[start:end] - price_B).astype(np.float32))
