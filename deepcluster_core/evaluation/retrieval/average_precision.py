"""Average precision of rankings. Suffixes: N images of the database, best first; P positive images.

The measure is that of the Oxford5k data set (Philbin et al. 2007): the area under the curve of
precision against recall, by trapezoids, computed as by its program `compute_ap`.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def trapezoid_average_precision(
    ranked_N: NDArray[np.integer], positive: Collection[int], junk: Collection[int]
) -> float:
    """Return the average precision, 0 to 1, of a ranking.

    Each positive image adds a trapezoid: the mean of the precisions before it and with it. Before
    the first image, precision counts as 1. Junk images are skipped.

    Args:
        ranked_N: numbers of images, best first, without duplicates.
        positive: images to find, at least one. Those that are not ranked count as not found.
        junk: images that count neither as right nor as wrong.
    """
    counted = ranked_N[~np.isin(ranked_N, list(junk))]
    place_P = np.flatnonzero(np.isin(counted, list(positive)))
    before_P = np.arange(len(place_P))
    with_it_P = (before_P + 1) / (place_P + 1)
    without_P = np.where(place_P == 0, 1.0, before_P / np.maximum(place_P, 1))
    return float((with_it_P + without_P).sum() / (2 * len(positive)))


def chance(num_positive: int, num_images: int) -> float:
    """Return the expected average precision, 0 to 1, of a random ranking.

    Args:
        num_positive: number of positive images, at least 1.
        num_images: number of images in the database without junk, at least `num_positive`.
    """
    # Probability that an image ranked before a given positive image is positive, too.
    is_positive = (num_positive - 1) / max(1, num_images - 1)
    place_N = np.arange(num_images)
    with_it_N = (1 + place_N * is_positive) / (place_N + 1)
    without_N = np.where(place_N == 0, 1.0, is_positive)
    return float((with_it_N + without_N).mean() / 2)
