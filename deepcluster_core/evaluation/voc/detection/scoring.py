"""Scores of a detector: detections in all pictures -> a table, and a score for each class.

Suffixes: D detections of all pictures, O objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from deepcluster_core.data.decode import Pixels
from deepcluster_core.evaluation.voc.dataset import VocObject
from deepcluster_core.evaluation.voc.detection.drawing import Outline, Shown
from deepcluster_core.evaluation.voc.detection.fitting import Found
from deepcluster_core.evaluation.voc.detection.task import Subset
from deepcluster_core.evaluation.voc.detection.verdicts import (
    MIN_IOU,
    NEITHER,
    RIGHT,
    WRONG,
    overlaps,
    precision_at_recalls,
    verdicts,
)

SIDES = ["left", "top", "right", "bottom"]
SURE = 0.5  # above it, a class is more probable than all others together
VERDICTS = {RIGHT: "right", WRONG: "wrong", NEITHER: "difficult"}


@dataclass(frozen=True)
class ClassScore:
    """The score of a class."""

    name: str
    average_precision: float
    """Average precision, 0 to 1."""
    objects: int
    """Number of objects that are not difficult."""
    proposed: int
    """Number of these objects that some proposal overlaps enough. A detector finds few others."""


def scored(
    found: Sequence[Found],
    judged: Subset,
    classes: Sequence[str],
) -> tuple[pd.DataFrame, list[ClassScore]]:
    """Return the detections, in the order of pictures and best first in each, and the scores.

    Args:
        found: detections in each picture.
        judged: the pictures; each class has an object that is not difficult.
        classes: names of classes; label 1 is the first.

    Returns:
        A table with the columns name, class, score, left, top, right, bottom (pixels of the
        picture, right and bottom exclusive) and verdict (right, wrong or difficult); and the scores
        of the classes.
    """
    # Join the detections of all pictures.
    by_picture = [one.detections for one in found]
    counts = [len(one.label_K) for one in by_picture]
    picture_D = np.repeat(np.arange(len(counts)), counts)
    label_D = torch.cat([one.label_K for one in by_picture]).numpy()
    score_D = torch.cat([one.score_K for one in by_picture]).numpy()
    box_D4 = torch.cat([one.box_K4 for one in by_picture]).numpy()

    # Judge each class by itself.
    verdict_D = np.full(len(label_D), WRONG, np.int8)
    scores: list[ClassScore] = []
    for label, name in enumerate(classes, start=1):
        rows = np.flatnonzero(label_D == label)
        truth = judged.truth(name)
        verdict = verdicts(picture_D[rows], score_D[rows], box_D4[rows], truth)
        verdict_D[rows] = verdict
        num_objects = int((~truth.difficult_O).sum())
        precision = precision_at_recalls(score_D[rows], verdict, num_objects=num_objects)
        num_proposed = _num_proposed(found, judged, name)
        scores.append(ClassScore(name, precision, num_objects, num_proposed))

    # Labels begin at 1.
    name_of_picture = np.array(judged.names, object)
    name_of_label = np.array(["", *classes], object)
    table = pd.DataFrame({"name": name_of_picture[picture_D]})
    table["class"] = name_of_label[label_D]
    table["score"] = score_D
    table[SIDES] = box_D4
    table["verdict"] = [VERDICTS[verdict] for verdict in verdict_D.tolist()]
    return table, scores


def shown(
    picture_HWC: Pixels,
    judged: Subset,
    picture: int,
    table: pd.DataFrame,
) -> Shown:
    """Return a picture with its confident detections, and the objects that these miss.

    Args:
        picture_HWC: the picture in its original size.
        judged: all judged pictures.
        picture: number of the picture in `judged`.
        table: table of detections from `scored`.
    """
    name = judged.names[picture]
    sure = table.query("name == @name and score > @SURE")
    right = sure.query("verdict == 'right'")
    outlines: list[Outline] = []
    for thing in judged.objects[picture]:
        if not thing.difficult and not _is_found(thing, right):
            outlines.append(Outline(thing.box, thing.name, "missed"))

    # The order is reversed, so that the best detection is drawn on top.
    best_last = sure.iloc[::-1][["class", "score", *SIDES, "verdict"]]
    for row in best_last.itertuples(index=False):
        class_name, score, left, top, right_side, bottom, verdict = row
        box = (left, top, right_side, bottom)
        outlines.append(Outline(box, f"{class_name} {score:.2f}", verdict))
    return Shown(name, picture_HWC, outlines)


def _is_found(thing: VocObject, right: pd.DataFrame) -> bool:
    """Return whether one of the right detections in a picture is of this object."""
    is_of_class = right["class"] == thing.name
    box_D4 = right.loc[is_of_class, SIDES].to_numpy()
    iou_D = overlaps(box_D4, np.array([thing.box]))
    return bool((iou_D >= MIN_IOU).any())


def _num_proposed(found: Sequence[Found], judged: Subset, name: str) -> int:
    """Return how many objects of a class, without difficult ones, some proposal overlaps enough."""
    count = 0
    for one, objects in zip(found, judged.objects, strict=True):
        for is_proposed, thing in zip(one.proposed_O, objects, strict=True):
            if thing.name == name and not thing.difficult:
                count += is_proposed
    return count
