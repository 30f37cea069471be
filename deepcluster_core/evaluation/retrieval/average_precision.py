"""How well a ranking finds what it should. Suffixes: N images of the data base, best first.

The measure is that of the Oxford5k data set (Philbin et al. 2007), as its program `compute_ap`
computes it: the area under precision against recall, by trapezoids.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def trapezoid_average_precision(
    ranked_N: NDArray[np.integer], positive: Collection[int], junk: Collection[int]
) -> float:
    """Return the average precision, 0 to 1, of a ranking.

    Each positive adds a trapezoid: the mean of the precision before it and with it. Before the
    first image precision counts as 1. Junk images are skipped, as if they were not there.

    Args:
        ranked_N: numbers of images, best first, each once.
        positive: those to find, at least one; what is not ranked counts as never found.
        junk: those that are neither right nor wrong.
    """
    counted = ranked_N[~np.isin(ranked_N, list(junk))]
    place_P = np.flatnonzero(np.isin(counted, list(positive)))
    before_P = np.arange(len(place_P))
    with_it_P = (before_P + 1) / (place_P + 1)
    without_P = np.where(place_P == 0, 1.0, before_P / np.maximum(place_P, 1))
    return float((with_it_P + without_P).sum() / (2 * len(positive)))


def chance(num_positive: int, num_images: int) -> float:
    """Return the average precision, 0 to 1, that rankings drawn at random have in the mean.

    Args:
        num_positive: at least 1.
        num_images: of the data base, without junk; at least `num_positive`.
    """
    # Of the images before a positive one, each is positive with this probability.
    others = (num_positive - 1) / max(1, num_images - 1)
    place_N = np.arange(num_images)
    with_it_N = (1 + place_N * others) / (place_N + 1)
    without_N = np.where(place_N == 0, 1.0, others)
    return float((with_it_N + without_N).mean() / 2)
