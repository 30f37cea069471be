"""In which order the clusters of an epoch, and the images of a cluster, are shown.

Suffixes: K clusters, M members of a cluster, C classes.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.inspection.outliers import outlier_scores
from flows.look.contents import EpochContents, RunContents
from stages.runs.run_images import NEIGHBOURS

CLUSTER_ORDERS = {
    "largest": "Largest",
    "smallest": "Smallest",
    "stable": "Most stable",
    "unstable": "Least stable",
    "tight": "Tightest",
    "loose": "Loosest",
    "mixed": "Most mixed",
    "id": "By number",
}
IMAGE_ORDERS = {
    "near": "Nearest to the centroid",
    "far": "Farthest",
    "outlier": "Most unusual",
    "unstable": "Least stable",
    "id": "By number",
}
WAIT_S = 2.0
"""Longest time, in seconds, that a page waits for outlier scores."""
BLOCK = 512
"""Images whose neighbours are searched between two reports of progress."""


@dataclass
class Scoring:
    """The outlier scores of a cluster, while they are computed and afterwards."""

    future: "Future[NDArray[np.float32]]"
    done: int = 0
    total: int = 0


class OutlierScores:
    """Outlier scores of clusters, computed one cluster after the other when asked for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "outliers")
        self._lock = threading.Lock()
        self._found: dict[tuple[tuple[str, ...], int], Scoring] = {}

    def scores_of(self, contents: EpochContents, cluster: int) -> NDArray[np.float32] | Scoring:
        """Return the scores of a cluster's members, or the scoring if it takes longer.

        Raises:
            ArtifactError: the run does not have the features of the epoch any more.
        """
        key = (contents.identity, cluster)
        with self._lock:
            scoring = self._found.get(key)
            if scoring is None or _has_failed(scoring):
                scoring = self._found[key] = self._start(contents, cluster)
        try:
            return scoring.future.result(WAIT_S)
        except NotYetError:
            return scoring

    def close(self) -> None:
        """Drop the scorings that have not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, contents: EpochContents, cluster: int) -> Scoring:
        member_M = contents.members(cluster)
        scoring = Scoring(Future(), total=len(member_M))

        def score() -> NDArray[np.float32]:
            parts = [np.empty(0, np.float32)]
            for start in range(0, len(member_M), BLOCK):
                part = member_M[start : start + BLOCK]
                parts.append(outlier_scores(contents.neighbours(part, NEIGHBOURS)))
                scoring.done = start + len(part)
            return np.concatenate(parts)

        scoring.future = self._pool.submit(score)
        return scoring


def _has_failed(scoring: Scoring) -> bool:
    """Return whether a scoring ended with an error, as without features, which may be back."""
    future = scoring.future
    return future.done() and (future.cancelled() or future.exception() is not None)


def ordered_clusters(run: RunContents, contents: EpochContents, order: str) -> list[int]:
    """Return the clusters that have images, in one of `CLUSTER_ORDERS`; ties by number."""
    cluster_P = np.flatnonzero(contents.sizes)
    values: dict[str, Callable[[], NDArray[np.floating] | NDArray[np.int64]]] = {
        "largest": lambda: -contents.sizes,
        "smallest": lambda: contents.sizes,
        "tight": lambda: contents.mean_distances,
        "loose": lambda: -contents.mean_distances,
        "stable": lambda: -_stability(contents),
        "unstable": lambda: _stability(contents),
        "mixed": lambda: purity(run, contents),
    }
    if order not in values:
        return cluster_P.tolist()
    return cluster_P[np.argsort(values[order]()[cluster_P], kind="stable")].tolist()


def cluster_orders(run: RunContents, contents: EpochContents) -> dict[str, str]:
    """Return the orders that an epoch has: the first one has no stability, for example."""
    orders = dict(CLUSTER_ORDERS)
    if contents.stability is None:
        del orders["stable"], orders["unstable"]
    if not run.classes[1]:
        del orders["mixed"]
    return orders


def image_orders(contents: EpochContents) -> dict[str, str]:
    """Return the orders that the images of an epoch's clusters have."""
    orders = dict(IMAGE_ORDERS)
    if contents.stability is None:
        del orders["unstable"]
    return orders


def ordered_members(
    contents: EpochContents, cluster: int, order: str, outliers: OutlierScores
) -> NDArray[np.int64] | Scoring:
    """Return the images of a cluster in one of `IMAGE_ORDERS`, or the scoring to wait for."""
    member_M = contents.members(cluster)
    if order == "outlier":
        score_M = outliers.scores_of(contents, cluster)
        if isinstance(score_M, Scoring):
            return score_M
        return member_M[np.argsort(-score_M, kind="stable")]
    if order == "far":
        return member_M[::-1]
    if order == "id":
        return np.sort(member_M)
    stability_N = contents.stability
    if order == "unstable" and stability_N is not None:
        return member_M[np.argsort(stability_N[member_M], kind="stable")]
    return member_M


def purity(run: RunContents, contents: EpochContents) -> NDArray[np.float64]:
    """Return the share of each cluster's commonest class among all of its images, 0 to 1."""
    class_N, names = run.classes
    known_N = class_N >= 0
    pair_N = contents.labels.cluster_N[known_N].astype(np.int64) * len(names) + class_N[known_N]
    pair_P, count_P = np.unique(pair_N, return_counts=True)
    most_K = np.zeros(contents.num_clusters)
    np.maximum.at(most_K, pair_P // len(names), count_P)
    return most_K / np.maximum(contents.sizes, 1)


def _stability(contents: EpochContents) -> NDArray[np.float64]:
    cluster_stability = contents.cluster_stability
    return np.zeros(contents.num_clusters) if cluster_stability is None else cluster_stability
