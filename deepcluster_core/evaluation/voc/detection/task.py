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
    """Pictures of a subset, sorted by name, and what they show."""

    names: tuple[str, ...]
    objects: tuple[tuple[VocObject, ...], ...]

    @property
    def classes(self) -> set[str]:
        """Names of the classes of which it shows one that is not difficult."""
        return {found.name for of_one in self.objects for found in of_one if not found.difficult}

    def learnable(self) -> "Subset":
        """Return the pictures with an object that is not difficult, and those objects alone.

        Difficult ones are not learnt, nor pictures without others: as Fast R-CNN's released code.
        """
        easy = [tuple(found for found in of_one if not found.difficult) for of_one in self.objects]
        kept = [number for number, of_one in enumerate(easy) if of_one]
        return Subset(tuple(self.names[n] for n in kept), tuple(easy[n] for n in kept))

    def restricted(self, classes: Sequence[str]) -> "Subset":
        """Return the same without objects of other classes: those of which all are difficult."""
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
    """Read the list and the annotations of a subset: some seconds for VOC 2007's 5,000.

    Raises:
        SourceError: something is missing or damaged.
    """
    names = voc.listed(subset, "Main")
    return Subset(names, tuple(voc.objects(name) for name in names))


@dataclass(frozen=True)
class VocTask:
    """What is learnt, and what it is judged on."""

    classes: tuple[str, ...]
    """Label 1 is the first."""
    training: Subset
    """Learnable pictures."""
    judged: Subset
    """All pictures, with their difficult objects."""


def open_task(voc: Voc, subsets: tuple[str, str]) -> VocTask:
    """Read what is learnt and what is judged; the classes are those that both show.

    Raises:
        SourceError: something is missing or damaged, or one subset shows a class that the other
            does not: it cannot be learnt, or not be judged.
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
