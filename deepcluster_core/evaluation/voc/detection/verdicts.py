"""How Pascal VOC 2007 judges detections of one class, and what precision follows from it.

Boxes are left, top, right, bottom in pixels; right and bottom are outside, so that an area is a
plain product. VOC's own count from 1 and include the last pixel, and its areas add 1 to each side:
left 11 and right 20 there are 10 and 20 here, both ten pixels wide.

Suffixes: D detections, O objects, P pairs of a detection and an object of its picture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RIGHT, WRONG, NEITHER = 1, 0, -1
"""Of an object; of none, or of one that was found before; of a difficult one."""
MIN_IOU = 0.5
RECALLS = 11  # 0, 0.1, … 1

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Truth:
    """All objects of one class."""

    picture_O: Ints
    """Number of the picture that shows it."""
    box_O4: Floats
    difficult_O: NDArray[np.bool_]
    """Those that count neither way."""


def verdicts(picture_D: Ints, score_D: Floats, box_D4: Floats, truth: Truth) -> NDArray[np.int8]:
    """Return verdict_D: RIGHT, WRONG or NEITHER for each detection.

    In the order of their scores, equal ones as they come, each detection speaks of the object of
    its picture that it overlaps most, be it found already or not, if their intersection is half of
    their union or more. The first to speak of an object is right.

    Source: the challenge's description and `VOCevaldet` of its development kit.
    """
    object_D, iou_D = _most_overlapping(picture_D, box_D4, truth)
    speaks_D = iou_D >= MIN_IOU
    of_difficult_D = np.zeros(len(score_D), np.bool_)
    of_difficult_D[speaks_D] = truth.difficult_O[object_D[speaks_D]]
    verdict_D = np.where(of_difficult_D, NEITHER, WRONG).astype(np.int8)
    order_D = np.argsort(-score_D, kind="stable")
    claims_D = order_D[(speaks_D & ~of_difficult_D)[order_D]]
    _, first = np.unique(object_D[claims_D], return_index=True)
    verdict_D[claims_D[first]] = RIGHT
    return verdict_D


def precision_at_recalls(
    score_D: Floats, verdict_D: NDArray[np.int8], *, num_objects: int
) -> float:
    """Return VOC 2007's average precision, 0 to 1.

    That is the mean, over the recalls 0, 0.1, … 1, of the greatest precision at that recall or a
    greater one; 0 where no such recall is reached.

    Args:
        score_D: higher is more surely right.
        verdict_D: see `verdicts`.
        num_objects: those that are not difficult; at least 1.
    """
    counted_D = verdict_D[np.argsort(-score_D, kind="stable")]
    is_right_D = counted_D[counted_D != NEITHER] == RIGHT
    found_D = np.cumsum(is_right_D)
    precision_D = found_D / np.arange(1, len(is_right_D) + 1)
    # In whole numbers: 3 of 10 are a recall of 0.3, whatever 3 * 0.1 is.
    reached = [
        precision_D[(RECALLS - 1) * found_D >= tenth * num_objects].max(initial=0)
        for tenth in range(RECALLS)
    ]
    return float(np.mean(reached))


def _most_overlapping(
    picture_D: Ints, box_D4: Floats, truth: Truth
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return object_D, the first of those with the greatest IoU, and iou_D; 0 without objects."""
    detection_P, object_P = _pairs(picture_D, truth.picture_O)
    iou_P = overlaps(box_D4[detection_P], truth.box_O4[object_P])
    best_P = np.lexsort((object_P, -iou_P, detection_P))  # by the last key first
    detections, first = np.unique(detection_P[best_P], return_index=True)
    object_D = np.zeros(len(picture_D), np.int64)
    iou_D = np.zeros(len(picture_D))
    object_D[detections] = object_P[best_P[first]]
    iou_D[detections] = iou_P[best_P[first]]
    return object_D, iou_D


def _pairs(picture_D: Ints, picture_O: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the detection and the object of every pair that shares a picture."""
    order_O = np.argsort(picture_O, kind="stable")
    first_D = np.searchsorted(picture_O[order_O], picture_D, side="left")
    count_D = np.searchsorted(picture_O[order_O], picture_D, side="right") - first_D
    detection_P = np.repeat(np.arange(len(picture_D)), count_D)
    skipped_D = first_D - (np.cumsum(count_D) - count_D)
    return detection_P, order_O[np.arange(len(detection_P)) + np.repeat(skipped_D, count_D)]


def overlaps(box_P4: Floats, other_P4: Floats) -> NDArray[np.float64]:
    """Return iou_P of pairs of boxes: what both cover, divided by what either does."""
    box_P4, other_P4 = box_P4.astype(np.float64), other_P4.astype(np.float64)
    low_P2 = np.maximum(box_P4[:, :2], other_P4[:, :2])
    high_P2 = np.minimum(box_P4[:, 2:], other_P4[:, 2:])
    both_P = (high_P2 - low_P2).clip(min=0).prod(axis=1)
    area_P = (box_P4[:, 2:] - box_P4[:, :2]).prod(axis=1)
    other_area_P = (other_P4[:, 2:] - other_P4[:, :2]).prod(axis=1)
    return both_P / (area_P + other_area_P - both_P)
