"""Groups of images that are nearly equal. Suffixes: N images, M neighbours, P pairs."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from deepcluster_core.inspection.neighbours import Neighbours

NEAR_DUPLICATE = 0.98
"""Cosine from which two images count as nearly equal, unless another threshold is given.

A threshold suits one network only: in features of a small or hardly trained one, many images that
look different are as similar.
"""
SUSPICIOUS_DEVIATIONS = 3.0
"""Deviations below the median from which a distance is too small for two different images."""
SUGGESTED = (0.9, 0.9999)
"""Range of thresholds that are suggested: below, images look different in any network; above,
float16 and the decoders of JPEG make copies of one image differ."""


def suggested_threshold(neighbours: Neighbours) -> float:
    """Return the similarity from which an image and its nearest are closer than is usual.

    The logarithms of the distances to the nearest image, 1 - cosine, lie around their median; the
    threshold is where they fall short of it by three robust standard deviations.
    """
    similarity_N = neighbours.similarity_NM[:, 0].astype(np.float64)
    log_N = np.log(np.maximum(1 - similarity_N, 1 - SUGGESTED[1]))
    median = np.median(log_N)
    deviation = 1.4826 * np.median(np.abs(log_N - median))  # that of a normal distribution
    threshold = 1 - np.exp(median - SUSPICIOUS_DEVIATIONS * deviation)
    return float(np.clip(threshold, *SUGGESTED))


def duplicate_groups(
    neighbours: Neighbours, *, threshold: float = NEAR_DUPLICATE
) -> list[list[int]]:
    """Return groups of image_ids, each linked by pairs of at least this similarity.

    Two images of a group can be less similar than the threshold, if others link them. More copies
    of an image than M are found as well, because each links to M others of them.

    Returns:
        Groups of at least two images, the largest first; ids ascend within a group.
    """
    num_images = len(neighbours.image_id_NM)
    is_near_NM = neighbours.similarity_NM >= threshold
    first_P, place_P = np.nonzero(is_near_NM)
    second_P = neighbours.image_id_NM[first_P, place_P]
    links = coo_array((np.ones(len(first_P), np.int8), (first_P, second_P)), (num_images,) * 2)
    _, group_N = connected_components(links, directed=False)
    return _members(group_N)


def _members(group_N: NDArray[np.integer]) -> list[list[int]]:
    """Return the ids of each group that has several, the largest group first."""
    order_N = np.argsort(group_N, kind="stable")
    starts = np.flatnonzero(np.diff(group_N[order_N])) + 1
    groups = [ids.tolist() for ids in np.split(order_N, starts) if len(ids) > 1]
    return sorted(groups, key=lambda ids: (-len(ids), ids))
