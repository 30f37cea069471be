"""Choose images that are worth a label: spread over clusters, at borders, and outliers.

Suffixes: N images, M neighbours, K clusters, C candidates.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.inspection.neighbours import Neighbours

Reason = Literal["cluster", "border", "outlier"]
REASONS: dict[Reason, float] = {"cluster": 0.5, "border": 0.25, "outlier": 0.25}
"""Reasons to choose an image, with the share of the images that are chosen for each. Ours: half of
the budget learns what the clusters are, half what is uncertain about them."""


@dataclass(frozen=True)
class ImagePlaces:
    """Where images lie among the clusters and among each other."""

    cluster_N: NDArray[np.integer]
    second_N: NDArray[np.integer]
    """The nearest other cluster of each image."""
    margin_N: NDArray[np.floating]
    """How much farther the centroid of that cluster is than the image's own."""
    outlier_N: NDArray[np.floating]
    neighbours: Neighbours


@dataclass(frozen=True)
class Pick:
    """A chosen image."""

    image_id: int
    reason: Reason


def pick(
    places: ImagePlaces,
    num_images: int,
    *,
    is_candidate_N: NDArray[np.bool_],
    same_from: float,
    seed: int,
    reasons: Mapping[Reason, float] = REASONS,
) -> list[Pick]:
    """Return images to label: the first ones say most.

    - cluster: an image of each cluster drawn at random, then a second one of each, and so on;
    - border: images that are almost as near to a second cluster, first one of each pair of
      clusters;
    - outlier: images that are least like any other.

    No image is chosen twice, nor after one that is nearly equal to it.

    Args:
        places: the images.
        num_images: number of images to choose; fewer if there are not so many candidates.
        is_candidate_N: images that may be chosen.
        same_from: similarity from which two images count as nearly equal.
        seed: seed of the draw.
        reasons: the share of each reason.

    Returns:
        The images in the order of choice; the reasons take turns according to their shares.
    """
    candidates_C = np.flatnonzero(is_candidate_N)
    orders: dict[Reason, Callable[[], NDArray[np.intp]]] = {
        "cluster": lambda: _by_cluster(places, candidates_C, seed),
        "border": lambda: _by_border(places, candidates_C),
        "outlier": lambda: candidates_C[np.argsort(-places.outlier_N[candidates_C], kind="stable")],
    }
    waiting: dict[Reason, Iterator[int]] = {}
    for reason in reasons:
        waiting[reason] = iter(orders[reason]().tolist())
    taken: set[int] = set()
    chosen: list[Pick] = []
    counts: Counter[Reason] = Counter()
    while len(chosen) < num_images and waiting:
        # The reason that is farthest behind its share; ties go to the first one.
        shares = {reason: (counts[reason] + 1) / reasons[reason] for reason in waiting}
        reason = min(waiting, key=shares.__getitem__)
        image_id = _next(waiting[reason], taken)
        if image_id is None:
            del waiting[reason]
            continue
        counts[reason] += 1
        chosen.append(Pick(image_id, reason))
        taken.update(_nearly_equal(places.neighbours, image_id, same_from))
    return chosen


def _next(order: Iterator[int], taken: set[int]) -> int | None:
    """Return the next image that is not taken; None if there is none left."""
    return next((image_id for image_id in order if image_id not in taken), None)


def _nearly_equal(neighbours: Neighbours, image_id: int, same_from: float) -> list[int]:
    """Return an image and its neighbours that are nearly equal to it."""
    is_same_M = neighbours.similarity_NM[image_id] >= same_from
    return [image_id, *neighbours.image_id_NM[image_id][is_same_M].tolist()]


def _by_cluster(places: ImagePlaces, candidates_C: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Return candidates in random order, one of each cluster before the second of any."""
    shuffled_C = np.random.default_rng(seed).permutation(candidates_C)
    cluster_C = places.cluster_N[shuffled_C]
    round_C = _place_in_group(cluster_C)
    # Within a round, in the order of the cluster ids.
    return shuffled_C[np.lexsort((cluster_C, round_C))]


def _by_border(places: ImagePlaces, candidates_C: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return candidates by their margin, one of each pair of clusters before the second of any."""
    nearest_C = candidates_C[np.argsort(places.margin_N[candidates_C], kind="stable")]
    one_C = places.cluster_N[nearest_C].astype(np.int64)
    other_C = places.second_N[nearest_C].astype(np.int64)
    num_clusters = int(max(one_C.max(initial=0), other_C.max(initial=0))) + 1
    pair_C = np.minimum(one_C, other_C) * num_clusters + np.maximum(one_C, other_C)
    return nearest_C[np.argsort(_place_in_group(pair_C), kind="stable")]


def _place_in_group(group_C: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return how many of its group come before each element."""
    order_C = np.argsort(group_C, kind="stable")
    sorted_C = group_C[order_C]
    first_C = np.searchsorted(sorted_C, sorted_C)
    place_C = np.empty(len(group_C), np.intp)
    place_C[order_C] = np.arange(len(group_C)) - first_C
    return place_C
