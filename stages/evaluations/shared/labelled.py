"""Images with known true labels, split into training and validation images.

Suffixes: N images, C classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.errors import ArtifactError
from deepcluster_core.text import listed


@dataclass(frozen=True)
class Labelled:
    """The labelled images of one artifact, with their classes."""

    pictures: Images
    image_id_N: NDArray[np.int64]
    """The image_ids of the images whose label is known, increasing."""
    class_N: NDArray[np.int64]
    """Class of each image, 0 to C - 1: its position in `Data.classes`."""


@dataclass(frozen=True)
class Data:
    """Training and validation images for classifiers; no image is in both."""

    training: Labelled
    validation: Labelled
    classes: tuple[str, ...]
    """Sorted class names; every class has at least one training image."""


def open_labelled(
    images: Path, validation: Path | None, *, validation_fraction: float, seed: int
) -> Data:
    """Return the labelled images of an artifact, split into training and validation images.

    Args:
        images: folder of the images artifact.
        validation: folder of an images artifact to validate on; its classes are matched by name.
            None: a part of each class of `images` is set aside, identical in all epochs and
            evaluations of a run.
        validation_fraction: share of each class, 0 to 1, that is set aside. At least one image of
            each class is set aside, and at least one is kept. Ignored if `validation` is given.
        seed: the run's seed.

    Raises:
        ArtifactError: there are no labels or fewer than 2 classes, a class has too few images to
            set one aside, or the validation images do not match the training images.
    """
    pictures = Images(images)
    class_N, classes = pictures.named_labels()
    if len(classes) < 2:
        if classes:
            found = f"has images of one class alone, {classes[0]!r}"
        else:
            found = "has no labels"
        raise ArtifactError(
            f"{_source_of(images)}: {found}, but this evaluation needs at least two labelled "
            f"classes.\n"
            f"  Fix: --data SOURCE with class folders or a label column; or index the run's images "
            f"with theirs, dataset.labels: auto."
        )
    if validation is not None:
        validation_pictures = _opened_beside(validation, images, pictures)
        validation_images = _matched(validation_pictures, classes)
        return Data(_known(pictures, class_N), validation_images, classes)
    is_validation_N = _set_aside(images, class_N, classes, validation_fraction, seed)
    # In each of the two parts, the images of the other part count as unlabelled.
    training_class_N = np.where(is_validation_N, -1, class_N)
    validation_class_N = np.where(is_validation_N, class_N, -1)
    return Data(
        _known(pictures, training_class_N),
        _known(pictures, validation_class_N),
        classes,
    )


def _known(pictures: Images, class_N: NDArray[np.int32]) -> Labelled:
    """Return the images whose class is known, that is, not -1."""
    image_id_N = np.flatnonzero(class_N >= 0)
    return Labelled(pictures, image_id_N, class_N[image_id_N].astype(np.int64))


def _set_aside(
    images: Path, class_N: NDArray[np.int32], classes: tuple[str, ...], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Draw the images of each class to validate on."""
    # Every class needs an image to train on and one to validate on.
    size_C = np.bincount(class_N[class_N >= 0], minlength=len(classes))
    if size_C.min() < 2:
        alone = [classes[number] for number in np.flatnonzero(size_C < 2)]
        raise ArtifactError(
            f"{images}: {len(alone)} of {len(classes)} classes have one image alone: "
            f"{_quoted(alone)}. It cannot be both trained on and validated on.\n"
            f"  Fix: add images of these classes, or give a validation artifact."
        )
    wanted_C = np.rint(size_C * fraction).astype(np.int64)
    taken_C = np.clip(wanted_C, 1, size_C - 1)
    draw_N = seeding.numpy_generator(seed, "evaluations", "validation").random(len(class_N))
    # Sort by class, and randomly within a class. The unlabelled images have class -1 and so come
    # first: drop them.
    num_unlabelled = np.count_nonzero(class_N < 0)
    order_N = np.lexsort((draw_N, class_N))[num_unlabelled:]
    # Take the first images of each class.
    first_C = np.cumsum(size_C) - size_C
    ordered_N = class_N[order_N]
    rank_in_class_N = np.arange(len(order_N)) - first_C[ordered_N]
    is_taken_N = rank_in_class_N < taken_C[ordered_N]
    is_validation_N = np.zeros(len(class_N), dtype=np.bool_)
    is_validation_N[order_N[is_taken_N]] = True
    return is_validation_N


def _opened_beside(validation: Path, images: Path, pictures: Images) -> Images:
    """Open the validation images; they must differ from the training images, but not in channels.

    Raises:
        ArtifactError: the two artifacts are identical, or their numbers of channels differ.
    """
    validation_pictures = Images(validation)
    # Equal contents can lie in two folders, so the digests are compared and not the paths.
    if read_manifest(validation).digest == read_manifest(images).digest:
        raise ArtifactError(
            f"{validation}: holds the very images that are trained on, {images}.\n"
            f"  Fix: give different images, or none: then a part of each class is set aside."
        )
    if validation_pictures.channels != pictures.channels:
        raise ArtifactError(
            f"{validation}: its images have {validation_pictures.channels} channels, those of "
            f"{images} {pictures.channels}.\n"
            f"  Fix: index it with dataset.channels={pictures.channels}."
        )
    return validation_pictures


def _matched(pictures: Images, classes: tuple[str, ...]) -> Labelled:
    """Return the validation images, with classes numbered as in the training images.

    Raises:
        ArtifactError: there are no labels, or a class has no training images.
    """
    class_N, names = pictures.named_labels()
    if not names:
        raise ArtifactError(
            f"{_source_of(pictures.folder)}: has no labels, so nothing can be validated on it.\n"
            f"  Fix: --validation SOURCE with class folders or a label column."
        )
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ArtifactError(
            f"{pictures.folder}: {len(unknown)} of its {len(names)} classes have no training "
            f"images: {_quoted(unknown)}.\n"
            f"  Cause: classes are matched by name; the training images have {_quoted(classes)}.\n"
            f"  Fix:   name the classes alike in both sources, or leave those images out."
        )
    # Renumber the classes of the validation images as in the training images.
    number_of_class = {name: number for number, name in enumerate(classes)}
    new_numbers = [number_of_class[name] for name in names]
    # Unknown labels stay unknown: index -1 picks the last element, which is -1.
    new_number_of_old = np.array([*new_numbers, -1], np.int32)
    return _known(pictures, new_number_of_old[class_N])


def _source_of(images: Path) -> str:
    """Return the source of an images artifact, which is the name that users know it by."""
    return str(read_manifest(images).config["dataset"]["source"])


def _quoted(names: Iterable[str]) -> str:
    return listed(list(map(repr, names)))
