"""Average precision of rankings. Suffixes: N images of the database, best first; P positive images.

The measure is that of the Oxford5k data set (Philbin et al. 2007): the area under the curve of
precision against recall, by trapezoids, computed as by its program `compute_ap`.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def trapezoid_average_precision(
    ranked_N: NDArray[np.integer],
    positive: Collection[int],
    junk: Collection[int],
) -> float:
    """Return the average precision, 0 to 1, of a ranking.

    Each positive image adds a trapezoid: the mean of the precisions before it and with it. Before
    the first image, precision counts as 1. Junk images are skipped.

    Args:
        ranked_N: numbers of images, best first, without duplicates.
        positive: images to find, at least one. Those that are not ranked count as not found.
        junk: images that count neither as right nor as wrong.
    """
    is_junk_N = np.isin(ranked_N, list(junk))
    counted = ranked_N[~is_junk_N]
    is_positive = np.isin(counted, list(positive))
    place_P = np.flatnonzero(is_positive)
    num_before_P = np.arange(len(place_P))
    with_it_P = (num_before_P + 1) / (place_P + 1)
    # The maximum only avoids a division by zero; the precision at place 0 is replaced by 1.
    before_it_P = num_before_P / np.maximum(place_P, 1)
    before_it_P = np.where(place_P == 0, 1.0, before_it_P)
    total = (with_it_P + before_it_P).sum()
    return float(total / (2 * len(positive)))


def chance(num_positive: int, num_images: int) -> float:
    """Return the expected average precision, 0 to 1, of a random ranking.

    Args:
        num_positive: number of positive images, at least 1.
        num_images: number of images in the database without junk, at least `num_positive`.
    """
    # Probability that an image ranked before a given positive image is positive, too.
    is_positive = (num_positive - 1) / max(1, num_images - 1)
    place_N = np.arange(num_images)
    num_positive_N = 1 + place_N * is_positive
    with_it_N = num_positive_N / (place_N + 1)
    before_it_N = np.where(place_N == 0, 1.0, is_positive)
    # The positive image lies at each place with equal probability.
    return float((with_it_N + before_it_N).mean() / 2)
