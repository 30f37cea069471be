"""Pascal VOC as a task for a detector. Suffixes: O objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.dataset import Voc, VocObject
from deepcluster_core.evaluation.voc.detection.sampling import Objects
from deepcluster_core.evaluation.voc.detection.verdicts import Truth


@dataclass(frozen=True)
class Subset:
    """The pictures of a subset, sorted by name, and their objects."""

    names: tuple[str, ...]
    objects: tuple[tuple[VocObject, ...], ...]

    @property
    def classes(self) -> set[str]:
        """Names of the classes with at least one object that is not difficult."""
        names: set[str] = set()
        for objects in self.objects:
            names.update(thing.name for thing in objects if not thing.difficult)
        return names

    def learnable(self) -> "Subset":
        """Return the subset without difficult objects, and without pictures that have no others.

        Fast R-CNN's released code does not learn from these either.
        """
        names: list[str] = []
        easy_objects: list[tuple[VocObject, ...]] = []
        for name, objects in zip(self.names, self.objects, strict=True):
            easy = tuple(thing for thing in objects if not thing.difficult)
            if easy:
                names.append(name)
                easy_objects.append(easy)
        return Subset(tuple(names), tuple(easy_objects))

    def restricted(self, classes: Sequence[str]) -> "Subset":
        """Return the subset without objects of other classes, which are all difficult."""
        kept_objects: list[tuple[VocObject, ...]] = []
        for objects in self.objects:
            of_classes = tuple(thing for thing in objects if thing.name in classes)
            kept_objects.append(of_classes)
        return Subset(self.names, tuple(kept_objects))

    def labelled(self, classes: Sequence[str]) -> list[Objects]:
        """Return the objects of each picture; label 1 is the first class."""
        # Label 0 is the background.
        label_by_name = {name: label for label, name in enumerate(classes, start=1)}
        labelled: list[Objects] = []
        for objects in self.objects:
            boxes = [thing.box for thing in objects]
            labels = [label_by_name[thing.name] for thing in objects]
            # The shape of a tensor without boxes would be (0,).
            box_O4 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            label_O = torch.tensor(labels, dtype=torch.int64)
            labelled.append(Objects(box_O4, label_O))
        return labelled

    def truth(self, class_name: str) -> Truth:
        """Return the objects of one class."""
        pictures: list[int] = []
        boxes: list[tuple[float, float, float, float]] = []
        difficult: list[bool] = []
        for picture, objects in enumerate(self.objects):
            for thing in objects:
                if thing.name == class_name:
                    pictures.append(picture)
                    boxes.append(thing.box)
                    difficult.append(thing.difficult)
        return Truth(
            picture_O=np.array(pictures, np.int64),
            box_O4=np.array(boxes, np.float32).reshape(-1, 4),
            difficult_O=np.array(difficult, np.bool_),
        )


def read_subset(voc: Voc, subset: str) -> Subset:
    """Read the list and the annotations of a subset, which takes seconds for VOC 2007's 5,000.

    Raises:
        SourceError: the list or an annotation is missing or damaged.
    """
    names = voc.listed(subset, "Main")
    objects = tuple(voc.objects(name) for name in names)
    return Subset(names, objects)


@dataclass(frozen=True)
class VocTask:
    """The pictures to train on and to judge on."""

    classes: tuple[str, ...]
    """Names of classes; label 1 is the first."""
    training: Subset
    """Pictures to train on, without difficult objects."""
    judged: Subset
    """Pictures to judge on, with their difficult objects."""


def open_task(voc: Voc, subsets: tuple[str, str]) -> VocTask:
    """Read the pictures to train on and to judge on. Both must show equal classes.

    Raises:
        SourceError: a list or an annotation is missing or damaged, or only one subset shows a
            class, which can then not be learnt or not be judged.
    """
    training_name, judged_name = subsets
    training = read_subset(voc, training_name)
    judged = read_subset(voc, judged_name)
    classes = sorted(training.classes | judged.classes)
    shown_by_name = {training_name: training.classes, judged_name: judged.classes}
    for subset, shown in shown_by_name.items():
        lacking = [name for name in classes if name not in shown]
        if lacking:
            raise SourceError(
                f"{voc.place}: no picture of {subset} shows a {lacking[0]} that is not difficult.\n"
                f"  Cause: this class cannot be learnt, or has no average precision.\n"
                f"  Fix:   add such pictures to {subset}, or remove the class from the "
                f"annotations of both."
            )
    return VocTask(tuple(classes), training.learnable(), judged.restricted(classes))
