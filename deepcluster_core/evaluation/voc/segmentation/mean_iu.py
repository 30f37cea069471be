"""Agreement of masks: the measures of Pascal VOC and of Shelhamer et al.

Suffixes: P pixels (of any shape), C classes; a matrix (C, C) counts pixels by true and predicted
class.
"""

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.evaluation.voc.dataset import VOID

Counts = NDArray[np.int64]


def confusion(
    truth_P: NDArray[np.uint8],
    found_P: NDArray[np.uint8],
    *,
    num_classes: int,
) -> Counts:
    """Return counts_CC[true, found] of a picture's pixels, without those whose truth is VOID."""
    is_counted_P = truth_P != VOID
    truth = truth_P[is_counted_P].astype(np.int64)
    found = found_P[is_counted_P]
    # One number for each pair of a true and a predicted class.
    pairs = truth * num_classes + found
    counts = np.bincount(pairs, minlength=num_classes**2)
    counts_CC = counts.reshape(num_classes, -1)
    return counts_CC.astype(np.int64, copy=False)


def intersection_over_union(counts_CC: Counts) -> NDArray[np.float64]:
    """Return the intersection over union iu_C of each class, 0 to 1.

    It is NaN for a class that occurs neither in the truth nor in the prediction.
    """
    intersection_C = np.diagonal(counts_CC)
    num_true_C = counts_CC.sum(axis=1)
    num_predicted_C = counts_CC.sum(axis=0)
    union_C = num_true_C + num_predicted_C - intersection_C
    iu_C = np.full(len(counts_CC), np.nan)
    return np.divide(intersection_C, union_C, where=union_C > 0, out=iu_C)


def mean_iu(iu_C: NDArray[np.float64]) -> float:
    """Return the mean over classes that occur in truth or prediction; in VOC, all do."""
    # A class that does not occur has no value, so it must not count as 0.
    occurring = iu_C[~np.isnan(iu_C)]
    return float(occurring.mean())
