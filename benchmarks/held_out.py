"""Two labels of the same images, and the rows of each that are held out.

A *class* is what the data set calls its label. An *object* is what several images show: images
whose path differs only in a last number are images of one object, as `frog-1-00.jpg` and
`frog-1-07.jpg`. Where every image has a name of its own, or a class has only one such name, there
are no objects.

For objects, a fifth of the images of each is held out: does the network recognise an object that it
knows from other views? For classes, a quarter of the objects of each class is held out with all
their images: does it recognise the class of an object that it has no label for? Without objects, a
fifth of the images of each class is held out.

The network is trained on all images, without their labels, as in the paper; labels are held out,
not images.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import BenchmarkError
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.tables import read_index

VIEWS_HELD_OUT = 1 / 5
OBJECTS_HELD_OUT = 1 / 4
SPLIT_SEED = 31
"""The split is the same for all sides and seeds."""
LAST_NUMBER = re.compile(r"[-_]\d+$")


@dataclass(frozen=True)
class Task:
    """A label of all images, and which of them are held out. Suffix: N images."""

    truth_N: NDArray[np.int64]
    """The label as a number from 0."""
    held_out_N: NDArray[np.bool_]

    @property
    def chance(self) -> float:
        """The accuracy of always answering with the most frequent label that is not held out."""
        counts = np.bincount(self.truth_N[~self.held_out_N])
        return float((self.truth_N[self.held_out_N] == counts.argmax()).mean())


def read_tasks(images: Path) -> dict[str, Task]:
    """Return the tasks of an images artifact by name: `object`, if there are objects, and `class`.

    Raises:
        BenchmarkError: images without labels.
    """
    pictures = Images(images)
    class_N, _ = pictures.named_labels()
    if (class_N < 0).any():
        raise BenchmarkError(
            f"{images}: has images without a label.\n  Fix: use a source whose images all have one."
        )
    rows = read_index(images, ["path", "label"], range(len(pictures)))
    names = [f"{row['label']}/{object_name(row['path'])}" for row in rows]
    return tasks_of(class_N.astype(np.int64), names)


def tasks_of(class_N: NDArray[np.int64], names: list[str]) -> dict[str, Task]:
    """Return the tasks of images with these classes, and these names of objects."""
    generator = np.random.default_rng(SPLIT_SEED)
    _, object_N = np.unique(names, return_inverse=True)
    num_objects = int(object_N.max()) + 1
    # Numbered images of a class, such as img_001.jpg, are not images of one object.
    num_classes = len(np.unique(class_N))
    if num_objects == len(names) or num_objects <= num_classes:
        return {"class": Task(class_N, _held_out(class_N, VIEWS_HELD_OUT, generator))}

    views = Task(object_N, _held_out(object_N, VIEWS_HELD_OUT, generator))
    # The class of each object, that is, of any of its images.
    class_of_object = np.zeros(num_objects, dtype=np.int64)
    class_of_object[object_N] = class_N
    objects_held_out = _held_out(class_of_object, OBJECTS_HELD_OUT, generator)
    return {"object": views, "class": Task(class_N, objects_held_out[object_N])}


def object_name(path: str) -> str:
    """Return a path without its extension and last number."""
    return LAST_NUMBER.sub("", str(Path(path).with_suffix("")))


def _held_out(
    group_N: NDArray[np.int64], share: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose the same share of each group at random, rounded; a group keeps at least one."""
    held_out_N = np.zeros(len(group_N), dtype=np.bool_)
    for group in np.unique(group_N):
        members = np.flatnonzero(group_N == group)
        count = min(round(share * len(members)), len(members) - 1)
        held_out_N[generator.choice(members, count, replace=False)] = True
    return held_out_N
