"""Verdicts of Pascal VOC 2007 on the detections of one class, and their average precision.

Boxes are left, top, right, bottom in pixels; right and bottom are exclusive, so an area is a plain
product. VOC itself counts from 1 and includes the last pixel, so its areas add 1 to each side: left
11 and right 20 there are 10 and 20 here, and both are ten pixels wide.

Suffixes: D detections, O objects, P pairs of a detection and an object of its picture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RIGHT, WRONG, NEITHER = 1, 0, -1
"""Verdicts on a detection. RIGHT: of an object. WRONG: of no object, or of one that is already
found. NEITHER: of a difficult object."""
MIN_IOU = 0.5
RECALLS = 11  # 0, 0.1, … 1

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Truth:
    """All objects of one class."""

    picture_O: Ints
    """Number of the picture that shows the object."""
    box_O4: Floats
    difficult_O: NDArray[np.bool_]
    """Whether the object is difficult, and so counts neither for nor against a detector."""


def verdicts(
    picture_D: Ints,
    score_D: Floats,
    box_D4: Floats,
    truth: Truth,
) -> NDArray[np.int8]:
    """Return verdict_D: RIGHT, WRONG or NEITHER for each detection.

    Detections are judged in the order of their scores; ties keep their order. Each detection claims
    the object of its picture that it overlaps most, whether that is already found or not, if their
    intersection over union is at least one half. The first to claim an object is right.

    Source: the challenge's description and `VOCevaldet` of its development kit.
    """
    object_D, iou_D = _most_overlapping(picture_D, box_D4, truth)
    claims_D = iou_D >= MIN_IOU
    claimed_objects = object_D[claims_D]
    is_difficult_D = np.zeros(len(score_D), np.bool_)
    is_difficult_D[claims_D] = truth.difficult_O[claimed_objects]
    verdict_D = np.where(is_difficult_D, NEITHER, WRONG).astype(np.int8)

    # Of the detections that claim an object, in the order of their scores, the first is right.
    order_D = np.argsort(-score_D, kind="stable")
    can_be_right_D = claims_D & ~is_difficult_D
    claimants = order_D[can_be_right_D[order_D]]
    _, first_claims = np.unique(object_D[claimants], return_index=True)
    verdict_D[claimants[first_claims]] = RIGHT
    return verdict_D


def precision_at_recalls(
    score_D: Floats,
    verdict_D: NDArray[np.int8],
    *,
    num_objects: int,
) -> float:
    """Return VOC 2007's average precision, 0 to 1.

    It is the mean, over the recalls 0, 0.1, … 1, of the greatest precision at that recall or a
    greater one, which is 0 if no such recall is reached.

    Args:
        score_D: scores; a higher score means more confidence.
        verdict_D: see `verdicts`.
        num_objects: number of objects that are not difficult, at least 1.
    """
    order_D = np.argsort(-score_D, kind="stable")
    ordered_D = verdict_D[order_D]
    counted = ordered_D[ordered_D != NEITHER]

    # Precision after each counted detection.
    num_found = np.cumsum(counted == RIGHT)
    rank = np.arange(1, len(counted) + 1)
    precision = num_found / rank

    greatest: list[float] = []
    for tenth in range(RECALLS):
        # Compare whole numbers: 3 of 10 objects are a recall of 0.3, though 3 * 0.1 != 0.3 in
        # floats.
        is_reached = (RECALLS - 1) * num_found >= tenth * num_objects
        greatest.append(precision[is_reached].max(initial=0))
    return float(np.mean(greatest))


def _most_overlapping(
    picture_D: Ints,
    box_D4: Floats,
    truth: Truth,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return object_D, the object with the greatest IoU, and iou_D.

    Ties go to the first object. Both are 0 for a detection in a picture without objects.
    """
    detection_P, object_P = _pairs(picture_D, truth.picture_O)
    iou_P = overlaps(box_D4[detection_P], truth.box_O4[object_P])
    # Sort by detection, then by IoU, then by object: lexsort's primary key comes last.
    order_P = np.lexsort((object_P, -iou_P, detection_P))
    detections, first_places = np.unique(detection_P[order_P], return_index=True)
    best_pairs = order_P[first_places]
    object_D = np.zeros(len(picture_D), np.int64)
    iou_D = np.zeros(len(picture_D))
    object_D[detections] = object_P[best_pairs]
    iou_D[detections] = iou_P[best_pairs]
    return object_D, iou_D


def _pairs(picture_D: Ints, picture_O: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the detection and the object of every pair that shares a picture."""
    # Objects sorted by picture: those of a detection's picture are a slice of them.
    order_O = np.argsort(picture_O, kind="stable")
    sorted_O = picture_O[order_O]
    start_D = np.searchsorted(sorted_O, picture_D, side="left")
    count_D = np.searchsorted(sorted_O, picture_D, side="right") - start_D
    detection_P = np.repeat(np.arange(len(picture_D)), count_D)

    # Pairs of a detection lie side by side. The shift leads from their places among all pairs to
    # the places of their objects in the sorted order.
    first_pair_D = np.cumsum(count_D) - count_D
    shift_P = np.repeat(start_D - first_pair_D, count_D)
    place_P = np.arange(len(detection_P)) + shift_P
    return detection_P, order_O[place_P]


def overlaps(box_P4: Floats, other_P4: Floats) -> NDArray[np.float64]:
    """Return the intersection over union iou_P of pairs of boxes."""
    # The upper left and the lower right corners, as x and y.
    exact_P4 = box_P4.astype(np.float64)
    exact_other_P4 = other_P4.astype(np.float64)
    low_P2, high_P2 = np.hsplit(exact_P4, 2)
    other_low_P2, other_high_P2 = np.hsplit(exact_other_P4, 2)
    area_P = (high_P2 - low_P2).prod(axis=1)
    other_area_P = (other_high_P2 - other_low_P2).prod(axis=1)

    both_low_P2 = np.maximum(low_P2, other_low_P2)
    both_high_P2 = np.minimum(high_P2, other_high_P2)
    # The sides of boxes that lie apart are negative.
    sides_P2 = (both_high_P2 - both_low_P2).clip(min=0)
    intersection_P = sides_P2.prod(axis=1)
    union_P = area_P + other_area_P - intersection_P
    return intersection_P / union_P
