"""Average precision of a ranking. Suffixes: N images, P images that are right."""

import numpy as np
from numpy.typing import NDArray


def average_precision(score_N: NDArray[np.floating], is_right_N: NDArray[np.bool_]) -> float:
    """Return the mean, over the right images, of the precision at the rank of each: 0 to 1.

    This is the area under the steps of the precision-recall curve, which is finer than VOC 2007's
    own mean over 11 recalls. Ties count pessimistically, with wrong images first, so that a
    classifier with equal scores for all images gains nothing by their order.

    Args:
        score_N: finite scores; a higher score means more confidence.
        is_right_N: whether each image is right; at least one must be.
    """
    order_N = np.lexsort((is_right_N, -score_N))  # lexsort's primary key comes last
    place_P = np.flatnonzero(is_right_N[order_N])
    rank_P = place_P + 1
    num_found_P = np.arange(1, len(rank_P) + 1)
    precision_P = num_found_P / rank_P
    return float(precision_P.mean())
