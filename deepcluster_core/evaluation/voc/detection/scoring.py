"""What a detector found in all pictures -> a table of it, and a score for each class.

Suffixes: D detections of all pictures, O objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

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
SURE = 0.5  # a class that is more probable than all others together
VERDICTS = {RIGHT: "right", WRONG: "wrong", NEITHER: "difficult"}


@dataclass(frozen=True)
class ClassScore:
    """How well a class is found."""

    name: str
    average_precision: float
    """0 to 1."""
    objects: int
    """Those that are not difficult."""
    proposed: int
    """Of them, those that some proposal overlaps enough: no detector finds many others."""


def scored(
    found: Sequence[Found], judged: Subset, classes: Sequence[str]
) -> tuple[pd.DataFrame, list[ClassScore]]:
    """Return the detections, in the order of pictures and best first in each, and the scores.

    Args:
        found: of each picture.
        judged: the pictures; each class has an object that is not difficult.
        classes: label 1 is the first.

    Returns:
        The table has name, class, score, left, top, right, bottom (pixels of the picture, right and
        bottom are outside) and verdict: right, wrong, or of a difficult object.
    """
    each = [one.detections for one in found]
    picture_D = np.repeat(np.arange(len(each)), [len(one.label_K) for one in each])
    label_D = np.concatenate([one.label_K.numpy() for one in each])
    score_D = np.concatenate([one.score_K.numpy() for one in each])
    box_D4 = np.concatenate([one.box_K4.numpy() for one in each])
    verdict_D = np.full(len(label_D), WRONG, np.int8)
    scores: list[ClassScore] = []
    for label, name in enumerate(classes, start=1):
        of_class_D, truth = label_D == label, judged.truth(name)
        verdict_D[of_class_D] = verdicts(
            picture_D[of_class_D], score_D[of_class_D], box_D4[of_class_D], truth
        )
        num_objects = int((~truth.difficult_O).sum())
        precision = precision_at_recalls(
            score_D[of_class_D], verdict_D[of_class_D], num_objects=num_objects
        )
        scores.append(ClassScore(name, precision, num_objects, _proposed(found, judged, name)))
    table = pd.DataFrame({"name": np.array(judged.names, object)[picture_D]})
    table["class"] = np.array(["", *classes], object)[label_D]
    table["score"] = score_D
    table[SIDES] = box_D4
    table["verdict"] = [VERDICTS[verdict] for verdict in verdict_D.tolist()]
    return table, scores


def shown(picture_HWC: Pixels, judged: Subset, picture: int, table: pd.DataFrame) -> Shown:
    """Return a picture with its surer detections, and the objects that none of them is right of.

    Args:
        picture_HWC: in its own size.
        judged: all pictures.
        picture: its number in there.
        table: of `scored`.
    """
    name = judged.names[picture]
    sure = table.query("name == @name and score > @SURE")
    right = sure.query("verdict == 'right'")
    outlines = [
        Outline(found.box, found.name, "missed")
        for found in judged.objects[picture]
        if not found.difficult and not _is_found(found, right)
    ]
    columns = (sure[::-1][name].tolist() for name in ("class", "score", *SIDES, "verdict"))
    for class_name, score, *box, verdict in zip(*columns, strict=True):  # the best on top
        left, top, right_side, bottom = box
        outlines.append(
            Outline((left, top, right_side, bottom), f"{class_name} {score:.2f}", verdict)
        )
    return Shown(name, picture_HWC, outlines)


def _is_found(found: VocObject, right: pd.DataFrame) -> bool:
    box_D4 = right.loc[right["class"] == found.name, SIDES].to_numpy()
    return bool((overlaps(box_D4, np.array([found.box])) >= MIN_IOU).any())


def _proposed(found: Sequence[Found], judged: Subset, name: str) -> int:
    return sum(
        is_proposed
        for one, objects in zip(found, judged.objects, strict=True)
        for is_proposed, shown in zip(one.proposed_O, objects, strict=True)
        if shown.name == name and not shown.difficult
    )
