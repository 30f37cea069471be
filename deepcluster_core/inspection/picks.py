"""Choose images that are worth a label: spread over clusters, at borders, and outliers.

Suffixes: N images, M neighbours, K clusters, C candidates.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
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
    taken: set[int] = set()
    orders: dict[Reason, Iterator[int]] = {
        "cluster": _by_cluster(places, candidates_C, taken, seed),
        "border": _by_border(places, candidates_C, taken),
        "outlier": _by_outlier(places, candidates_C, taken),
    }
    waiting: dict[Reason, Iterator[int]] = {one: orders[one] for one in reasons}
    chosen: list[Pick] = []
    counts: Counter[Reason] = Counter()
    while len(chosen) < num_images and waiting:
        # The reason that is farthest behind its share; ties go to the first one.
        shares = {one: (counts[one] + 1) / reasons[one] for one in waiting}
        reason: Reason = min(waiting, key=lambda one: shares[one])
        image_id = next(waiting[reason], None)
        if image_id is None:
            del waiting[reason]
            continue
        counts[reason] += 1
        chosen.append(Pick(image_id, reason))
        taken.update(_nearly_equal(places.neighbours, image_id, same_from))
    return chosen


def _nearly_equal(neighbours: Neighbours, image_id: int, same_from: float) -> list[int]:
    """Return an image and its neighbours that are nearly equal to it."""
    is_same_M = neighbours.similarity_NM[image_id] >= same_from
    return [image_id, *neighbours.image_id_NM[image_id][is_same_M].tolist()]


def _by_cluster(
    places: ImagePlaces, candidates_C: NDArray[np.intp], taken: set[int], seed: int
) -> Iterator[int]:
    """Return candidates in random order, from one cluster after the other in turns."""
    shuffled_C = np.random.default_rng(seed).permutation(candidates_C)
    cluster_C = places.cluster_N[shuffled_C]
    order_C = np.argsort(cluster_C, kind="stable")
    return _in_turns(shuffled_C[order_C], cluster_C[order_C], taken)


def _by_border(
    places: ImagePlaces, candidates_C: NDArray[np.intp], taken: set[int]
) -> Iterator[int]:
    """Return candidates by their margin, from one pair of clusters after the other in turns."""
    nearest_C = candidates_C[np.argsort(places.margin_N[candidates_C], kind="stable")]
    one_C = places.cluster_N[nearest_C].astype(np.int64)
    other_C = places.second_N[nearest_C].astype(np.int64)
    num_clusters = int(max(one_C.max(initial=0), other_C.max(initial=0))) + 1
    pair_C = np.minimum(one_C, other_C) * num_clusters + np.maximum(one_C, other_C)
    return _in_turns(nearest_C, pair_C, taken)


def _by_outlier(
    places: ImagePlaces, candidates_C: NDArray[np.intp], taken: set[int]
) -> Iterator[int]:
    """Return candidates by their outlier score, the largest first."""
    order_C = np.argsort(-places.outlier_N[candidates_C], kind="stable")
    in_one_group_C = np.zeros(len(candidates_C), np.intp)
    return _in_turns(candidates_C[order_C], in_one_group_C, taken)


def _in_turns(
    image_id_C: NDArray[np.intp], group_C: NDArray[np.integer], taken: set[int]
) -> Iterator[int]:
    """Yield an image of each group, then another one of each; skip those that are taken by then.

    Groups take turns in the order of their first image.
    """
    members: dict[int, list[int]] = {}
    for group, image_id in zip(group_C.tolist(), image_id_C.tolist(), strict=True):
        members.setdefault(group, []).append(image_id)
    queues = {group: iter(image_ids) for group, image_ids in members.items()}
    while queues:
        for group, queue in [*queues.items()]:
            image_id = next((one for one in queue if one not in taken), None)
            if image_id is None:
                del queues[group]
            else:
                yield image_id
