"""Pascal VOC as distributed: lists, annotations, masks and pictures of one year.

    VOCdevkit/VOC2007/ImageSets/Main/<class>_<subset>.txt   lines `000012  1`
    VOCdevkit/VOC2007/ImageSets/Main/<subset>.txt           lines `000012`
    VOCdevkit/VOC2007/ImageSets/Segmentation/<subset>.txt   lines `000032`
    VOCdevkit/VOC2007/Annotations/000012.xml
    VOCdevkit/VOC2007/JPEGImages/000012.jpg
    VOCdevkit/VOC2007/SegmentationClass/000032.png
    VOCdevkit/VOC2007/class_names.txt                       for user data, see `mask_classes`

Suffixes: N images of a subset, C classes, H height, W width.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.decode import Pixels, UnreadableImageError, decode, upright_size
from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.annotations import VocObject, parse_objects
from deepcluster_core.evaluation.voc.distribution import SHIPPED_SUBSETS, again, find_tree
from deepcluster_core.evaluation.voc.lists import (
    ABSENT,
    DIFFICULT,
    PRESENT,
    read_class_names,
    read_marks,
    read_names,
)
from deepcluster_core.evaluation.voc.masks import CLASSES, PALETTE, VOID, decode_mask
from deepcluster_core.shortage import explain_damage
from deepcluster_core.text import listed

__all__ = [
    "ABSENT",
    "CLASSES",
    "DIFFICULT",
    "PALETTE",
    "PRESENT",
    "VOID",
    "Marks",
    "Task",
    "Voc",
    "VocObject",
]

Task = Literal["Main", "Segmentation"]
"""Folder of the lists: Main is for classification and detection."""

PICTURES, ANNOTATIONS, MASKS = "JPEGImages", "Annotations", "SegmentationClass"
_ENDINGS = {PICTURES: ".jpg", ANNOTATIONS: ".xml", MASKS: ".png"}
_READ_FOR: dict[Task, tuple[str, ...]] = {
    "Main": (PICTURES, ANNOTATIONS),
    "Segmentation": (PICTURES, MASKS),
}
_PLURALS = {PICTURES: "pictures", ANNOTATIONS: "annotations", MASKS: "masks"}
CLASS_NAMES = "class_names.txt"
_LISTS = "ImageSets/Main"


@dataclass(frozen=True)
class Marks:
    """The images of a subset, and the classes that each of them shows."""

    names: tuple[str, ...]
    """Names of the N images, sorted."""
    mark_NC: NDArray[np.int8]
    """PRESENT, DIFFICULT or ABSENT for each image and class."""


class Voc:
    """One year of Pascal VOC, or user data with an equal layout.

    Boxes and masks refer to upright pictures. A picture whose EXIF data demand a rotation is
    rotated; VOC's own pictures have no such data.
    """

    def __init__(self, data: Path, year: int = 2007) -> None:
        """Find the year's folder.

        Args:
            data: one of these: the folder that holds VOCdevkit, VOCdevkit itself, or VOC<year> in
                it; the folder with the archives as distributed, VOCtrainval_06-Nov-2007.tar and
                VOCtest_06-Nov-2007.tar; or a tar file of any name that contains VOC<year>.
            year: year of the challenge.

        Raises:
            SourceError: none of these exists, or a tar file is compressed or truncated.
        """
        self.year = year
        self._tree = find_tree(data, year)

    @property
    def place(self) -> str:
        """The location of the data set, for messages."""
        return self._tree.show()

    def classes(self, *subsets: str) -> tuple[str, ...]:
        """Return the sorted names of the classes, each of which has a list in every subset.

        Raises:
            SourceError: a subset has no lists, or subsets have lists of different classes.
        """
        found = {subset: self._classes_of(subset) for subset in subsets}
        first, *others = subsets
        for other in others:
            in_one_only = sorted(found[first] ^ found[other])
            if in_one_only:
                raise SourceError(
                    f"{self._tree.show(_LISTS)}: the subsets {first} and {other} have lists of "
                    f"different classes: {listed(in_one_only)} are in only one of them.\n"
                    f"  Fix: give each class a list for both, <class>_{first}.txt and "
                    f"<class>_{other}.txt."
                )
        return tuple(sorted(found[first]))

    def marks(self, subset: str, classes: Sequence[str]) -> Marks:
        """Return the images of a subset, joined by name, and their marks.

        Args:
            subset: train, val, trainval or test.
            classes: C, in the order of the columns.

        Raises:
            SourceError: a list is missing or damaged, or the lists contain different images.
        """
        paths = [_list_of(subset, "Main", name) for name in classes]
        columns = [read_marks(self._tree, path) for path in paths]
        first = columns[0]
        for path, column in zip(paths, columns, strict=True):
            in_one_only = sorted(column.keys() ^ first.keys())
            if in_one_only:
                raise SourceError(
                    f"{self._tree.show(path)}: lists different images than {Path(paths[0]).name}: "
                    f"{listed(in_one_only)} are in only one of them.\n"
                    f"  Fix: {again(self.year, subset)}"
                )
        # The lists of classes may be in different orders.
        names = tuple(sorted(first))
        rows = [[column[name] for column in columns] for name in names]
        return Marks(names, np.array(rows, np.int8))

    def listed(self, subset: str, task: Task) -> tuple[str, ...]:
        """Return the sorted names of the images of a subset.

        Args:
            subset: train, val, trainval, test, or the name of a user's list.
            task: Main for all images, Segmentation for those that have a mask.

        Raises:
            SourceError: the list is missing, damaged or empty.
        """
        path = _list_of(subset, task)
        files = self._tree.names(f"ImageSets/{task}")
        if f"{subset}.txt" in files:
            return read_names(self._tree, path)
        if subset in SHIPPED_SUBSETS:
            fix = again(self.year, subset)
        else:
            # The name may be a user's typing error.
            subsets = sorted(name.removesuffix(".txt") for name in files)
            fix = f"name one of these: {listed(subsets)}" if subsets else "unpack its lists, too"
        raise SourceError(f"{self._tree.show(path)}: this list does not exist.\n  Fix: {fix}")

    def objects(self, name: str) -> tuple[VocObject, ...]:
        """Return the objects of a picture, in the order of its annotation.

        Raises:
            SourceError: the annotation is missing or damaged.
        """
        with self._reading("annotation", ANNOTATIONS, name):
            return parse_objects(self._tree.read(_path(ANNOTATIONS, name)))

    def picture(self, name: str, *, channels: int) -> Pixels:
        """Return a picture (H, W, C) in its original size; may be called from many threads.

        Raises:
            SourceError: the picture is missing or damaged.
        """
        with self._reading("picture", PICTURES, name):
            data = self._tree.read(_path(PICTURES, name))
            return decode(data, channels=channels, shorter_side=None).pixels_HWC

    def mask_classes(self) -> tuple[str, ...]:
        """Return the class names of the numbers in masks, from 0, which is the background.

        They are read from `class_names.txt` beside ImageSets, with a name per line. VOC itself has
        no such file; its names are `CLASSES`.

        Raises:
            SourceError: the file is damaged or contains a name twice.
        """
        if CLASS_NAMES not in self._tree.names(""):
            return CLASSES
        return read_class_names(self._tree, CLASS_NAMES)

    def mask(self, name: str) -> NDArray[np.uint8]:
        """Return the class number of each pixel of a picture (H, W), or VOID for no class.

        May be called from many threads.

        Raises:
            SourceError: the mask or its picture is missing or damaged; or the mask holds colours
                instead of numbers, differs in size from the picture, or holds an unknown number.
        """
        with self._reading("picture", PICTURES, name):
            size = upright_size(self._tree.read(_path(PICTURES, name)))
        with self._reading("mask", MASKS, name):
            data = self._tree.read(_path(MASKS, name))
            return decode_mask(data, num_classes=self._num_classes, size=size)

    def fingerprint(self, subsets: Sequence[str], classes: Sequence[str]) -> str:
        """Return a hexadecimal SHA-256 of the lists' contents and the pictures' sizes and times.

        If the archives are not unpacked, their sizes and times count instead. Pictures are not
        opened, so this takes 0.6 s for the 9,963 pictures of VOC 2007.

        Raises:
            SourceError: a list is missing or damaged, or a picture is missing.
        """
        names: set[str] = set()
        lists: list[str] = []
        for subset in subsets:
            names.update(self.marks(subset, classes).names)
            lists += [_list_of(subset, "Main", class_name) for class_name in classes]
        return self._fingerprint(lists, names, (PICTURES,))

    def fingerprint_listed(self, subsets: Sequence[str], task: Task) -> str:
        """Return a fingerprint of plain lists, their pictures, and their annotations or masks.

        It is computed as by `fingerprint`.

        Raises:
            SourceError: a list is missing or damaged, or a picture, annotation or mask is missing.
        """
        names: set[str] = set()
        for subset in subsets:
            names.update(self.listed(subset, task))
        lists = [_list_of(subset, task) for subset in subsets]
        if task == "Segmentation" and CLASS_NAMES in self._tree.names(""):
            lists.append(CLASS_NAMES)
        return self._fingerprint(lists, names, _READ_FOR[task])

    @cached_property
    def _num_classes(self) -> int:
        return len(self.mask_classes())

    def _fingerprint(
        self,
        lists: Iterable[str],
        names: Iterable[str],
        folders: Sequence[str],
    ) -> str:
        """Return the SHA-256 of the lists' contents, and of the sizes and times of other files."""
        names = sorted(names)
        paths: list[str] = []
        for folder in folders:
            self._check_all_present(folder, names)
            paths += [_path(folder, name) for name in names]
        # The lists are small, so their contents count instead of their times.
        lines = ["voc"]
        for path in lists:
            digest = hashlib.sha256(self._tree.read(path)).hexdigest()
            lines.append(f"{path} {digest}")
        return self._tree.fingerprint("\n".join(lines), paths)

    def _classes_of(self, subset: str) -> set[str]:
        """Return the names of the classes that have a list of the subset."""
        ending = f"_{subset}.txt"
        found: set[str] = set()
        for name in self._tree.names(_LISTS):
            # Names that begin with a dot are of files that macOS adds.
            if name.endswith(ending) and not name.startswith("."):
                found.add(name.removesuffix(ending))
        if not found:
            raise SourceError(
                f"{self._tree.show(_LISTS)}: no class has a list <class>{ending} of the subset "
                f"{subset}.\n"
                f"  Fix: {again(self.year, subset)}"
            )
        return found

    def _check_all_present(self, folder: str, names: Sequence[str]) -> None:
        present = self._tree.names(folder)
        file_names = [f"{name}{_ENDINGS[folder]}" for name in names]
        absent = [name for name in file_names if name not in present]
        if absent:
            raise SourceError(
                f"{self._tree.show(folder)}: {len(absent)} {_PLURALS[folder]} of the lists are "
                f"missing: {listed(absent)}.\n"
                f"  Fix: {again(self.year)}"
            )

    def _reading(self, what: str, folder: str, name: str) -> AbstractContextManager[None]:
        def explain(error: Exception) -> SourceError:
            return SourceError(
                f"{self._tree.show(_path(folder, name))}: the {what} cannot be read ({error}).\n"
                f"  Fix: {again(self.year)}"
            )

        return explain_damage(explain, OSError, ValueError, UnreadableImageError)


def _list_of(subset: str, task: Task, class_name: str | None = None) -> str:
    name = subset if class_name is None else f"{class_name}_{subset}"
    return f"ImageSets/{task}/{name}.txt"


def _path(folder: str, name: str) -> str:
    return f"{folder}/{name}{_ENDINGS[folder]}"
