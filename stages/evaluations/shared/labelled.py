"""Images whose true label is known, for evaluations that train or look up with labels.

Suffixes: N images, M images of one class.
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
    """Images of one artifact and their classes."""

    pictures: Images
    image_id_N: NDArray[np.int64]
    """Increasing; only images whose label is known."""
    class_N: NDArray[np.int64]
    """0 to C - 1: positions in `Data.classes`."""


@dataclass(frozen=True)
class Data:
    """What classifiers learn from and what they are judged on; no image is in both."""

    training: Labelled
    validation: Labelled
    classes: tuple[str, ...]
    """Names, sorted; every one of them has images to train on."""


def open_labelled(
    images: Path, validation: Path | None, *, validation_fraction: float, seed: int
) -> Data:
    """Return the labelled images of an artifact, and others to validate on.

    Args:
        images: folder of the images artifact.
        validation: another one, whose classes are those of `images` by name; None: a part of each
            class of `images` is set aside, the same in all epochs and evaluations of a run.
        validation_fraction: share of each class, 0 to 1, that is set aside; at least one of its
            images is, and at least one is not. Without effect where `validation` is given.
        seed: of the run.

    Raises:
        ArtifactError: no labels, fewer than 2 classes, a class of which nothing can be set aside,
            or validation images that do not fit.
    """
    pictures = Images(images)
    class_N, classes = pictures.named_labels()
    if len(classes) < 2:
        found = f"has images of one class alone, {classes[0]!r}" if classes else "has no labels"
        raise ArtifactError(
            f"{_source_of(images)}: {found}, but this evaluation needs at least two labelled "
            f"classes.\n"
            f"  Fix: --data SOURCE with class folders or a label column; or index the run's images "
            f"with theirs, dataset.labels: auto."
        )
    if validation is not None:
        others = _opened_beside(validation, images, pictures)
        return Data(_known(pictures, class_N), _matched(others, classes), classes)
    is_validation_N = _set_aside(images, class_N, classes, validation_fraction, seed)
    return Data(
        _known(pictures, np.where(is_validation_N, -1, class_N)),
        _known(pictures, np.where(is_validation_N, class_N, -1)),
        classes,
    )


def _known(pictures: Images, class_N: NDArray[np.int32]) -> Labelled:
    """Return the images whose class is not -1."""
    image_id_N = np.flatnonzero(class_N >= 0)
    return Labelled(pictures, image_id_N, class_N[image_id_N].astype(np.int64))


def _set_aside(
    images: Path, class_N: NDArray[np.int32], classes: tuple[str, ...], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Draw, of each class, the images to validate on."""
    size_C = np.bincount(class_N[class_N >= 0], minlength=len(classes))
    if size_C.min() < 2:
        alone = [classes[number] for number in np.flatnonzero(size_C < 2)]
        raise ArtifactError(
            f"{images}: {len(alone)} of {len(classes)} classes have one image alone: "
            f"{_quoted(alone)}. It cannot be both trained on and validated on.\n"
            f"  Fix: give more images of them, or a validation artifact of its own."
        )
    taken_C = np.clip(np.rint(size_C * fraction).astype(np.int64), 1, size_C - 1)
    draw_N = seeding.numpy_generator(seed, "evaluations", "validation").random(len(class_N))
    order_N = np.lexsort((draw_N, class_N))[np.count_nonzero(class_N < 0) :]  # class by class
    first_C = np.cumsum(size_C) - size_C
    ordered_N = class_N[order_N]
    chosen_N = np.arange(len(order_N)) - first_C[ordered_N] < taken_C[ordered_N]
    is_validation_N = np.zeros(len(class_N), dtype=np.bool_)
    is_validation_N[order_N[chosen_N]] = True
    return is_validation_N


def _opened_beside(validation: Path, images: Path, pictures: Images) -> Images:
    """Open the validation images, which must be others of the same kind."""
    others = Images(validation)
    if read_manifest(validation).digest == read_manifest(images).digest:
        raise ArtifactError(
            f"{validation}: holds the very images that are trained on, {images}.\n"
            f"  Fix: give other images, or none: then a part of each class is set aside."
        )
    if others.channels != pictures.channels:
        raise ArtifactError(
            f"{validation}: its images have {others.channels} channels, those of {images} "
            f"{pictures.channels}.\n"
            f"  Fix: index it with dataset.channels={pictures.channels}."
        )
    return others


def _matched(others: Images, classes: tuple[str, ...]) -> Labelled:
    """Return the validation images with the class numbers of the training images."""
    class_N, names = others.named_labels()
    if not names:
        raise ArtifactError(
            f"{_source_of(others.folder)}: has no labels, so nothing can be validated on it.\n"
            f"  Fix: --validation SOURCE with class folders or a label column."
        )
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ArtifactError(
            f"{others.folder}: {len(unknown)} of its {len(names)} classes have no training "
            f"images: {_quoted(unknown)}.\n"
            f"  Cause: classes are matched by name; the training images have {_quoted(classes)}.\n"
            f"  Fix:   name the classes alike in both sources, or leave those images out."
        )
    place = {name: number for number, name in enumerate(classes)}
    class_of_name = np.array([*(place[name] for name in names), -1], np.int32)
    return _known(others, class_of_name[class_N])  # -1, unknown, is the last and stays -1


def _source_of(images: Path) -> str:
    """Return what people know an images artifact by: where its images come from."""
    return str(read_manifest(images).config["dataset"]["source"])


def _quoted(names: Iterable[str]) -> str:
    return listed(list(map(repr, names)))
