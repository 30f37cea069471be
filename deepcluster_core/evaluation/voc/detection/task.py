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
        return {found.name for of_one in self.objects for found in of_one if not found.difficult}

    def learnable(self) -> "Subset":
        """Return the subset without difficult objects, and without pictures that have no others.

        Fast R-CNN's released code does not learn from these either.
        """
        easy = [tuple(found for found in of_one if not found.difficult) for of_one in self.objects]
        kept = [number for number, of_one in enumerate(easy) if of_one]
        return Subset(tuple(self.names[n] for n in kept), tuple(easy[n] for n in kept))

    def restricted(self, classes: Sequence[str]) -> "Subset":
        """Return the subset without objects of other classes, which are all difficult."""
        kept = (
            tuple(found for found in of_one if found.name in classes) for of_one in self.objects
        )
        return Subset(self.names, tuple(kept))

    def labelled(self, classes: Sequence[str]) -> list[Objects]:
        """Return the objects of each picture; label 1 is the first class."""
        number = {name: label for label, name in enumerate(classes, start=1)}
        return [
            Objects(
                torch.tensor([found.box for found in of_one], dtype=torch.float32).reshape(-1, 4),
                torch.tensor([number[found.name] for found in of_one], dtype=torch.int64),
            )
            for of_one in self.objects
        ]

    def truth(self, class_name: str) -> Truth:
        """Return the objects of one class."""
        of_class = [
            (picture, found)
            for picture, of_one in enumerate(self.objects)
            for found in of_one
            if found.name == class_name
        ]
        return Truth(
            np.array([picture for picture, _ in of_class], np.int64),
            np.array([found.box for _, found in of_class], np.float32).reshape(-1, 4),
            np.array([found.difficult for _, found in of_class], np.bool_),
        )


def read_subset(voc: Voc, subset: str) -> Subset:
    """Read the list and the annotations of a subset, which takes seconds for VOC 2007's 5,000.

    Raises:
        SourceError: the list or an annotation is missing or damaged.
    """
    names = voc.listed(subset, "Main")
    return Subset(names, tuple(voc.objects(name) for name in names))


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
    training, judged = (read_subset(voc, subset) for subset in subsets)
    classes = sorted(training.classes | judged.classes)
    for subset, found in zip(subsets, (training.classes, judged.classes), strict=True):
        if lacking := [name for name in classes if name not in found]:
            raise SourceError(
                f"{voc.place}: no picture of {subset} shows a {lacking[0]} that is not difficult.\n"
                f"  Cause: so it can either not be learnt or have no average precision.\n"
                f"  Fix:   give {subset} some, or take it out of the annotations of both."
            )
    return VocTask(tuple(classes), training.learnable(), judged.restricted(classes))
