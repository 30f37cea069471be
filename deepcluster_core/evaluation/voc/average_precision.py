"""Average precision: how far up in a ranking the right ones stand. Suffixes: N images, P right."""

import numpy as np
from numpy.typing import NDArray


def average_precision(score_N: NDArray[np.floating], is_right_N: NDArray[np.bool_]) -> float:
    """Return the mean, over the right ones, of the precision at the rank of each: 0 to 1.

    That is the area under the steps of the precision-recall curve, not VOC 2007's own mean over 11
    recalls, which is coarser. Equal scores count pessimistically: the wrong ones stand first, so
    that a classifier that says the same of all images gains nothing by their order.

    Args:
        score_N: higher is more surely right; finite.
        is_right_N: at least one of them.
    """
    order_N = np.lexsort((is_right_N, -score_N))  # by the last key first
    rank_P = np.flatnonzero(is_right_N[order_N]) + 1
    return float((np.arange(1, len(rank_P) + 1) / rank_P).mean())
