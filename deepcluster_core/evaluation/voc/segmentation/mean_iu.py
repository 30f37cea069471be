"""How well masks agree: the measures of Pascal VOC and of Shelhamer et al.

Suffixes: P pixels (of any shape), C classes; a matrix (C, C) counts pixels by their true class and
the one that was found.
"""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.evaluation.voc.dataset import VOID

Counts = NDArray[np.int64]


def confusion(
    truth_P: NDArray[np.uint8], found_P: NDArray[np.uint8], *, num_classes: int
) -> Counts:
    """Return counts_CC[true, found] of the pixels of a picture that are not VOID in truth."""
    counts_P = truth_P != VOID
    pair_P = truth_P[counts_P].astype(np.int64) * num_classes + found_P[counts_P]
    counts_CC = np.bincount(pair_P, minlength=num_classes**2).reshape(num_classes, -1)
    return counts_CC.astype(np.int64, copy=False)


def intersection_over_union(counts_CC: Counts) -> NDArray[np.float64]:
    """Return iu_C, 0 to 1: pixels that are of a class and found so, of those that are one of both.

    NaN for a class that is neither there nor found.
    """
    both_C = np.diagonal(counts_CC)
    either_C = counts_CC.sum(axis=1) + counts_CC.sum(axis=0) - both_C
    return np.divide(both_C, either_C, where=either_C > 0, out=np.full(len(both_C), np.nan))


def mean_iu(iu_C: NDArray[np.float64]) -> float:
    """Return the mean over classes that are there or found; VOC's are all there."""
    return float(iu_C[~np.isnan(iu_C)].mean())
