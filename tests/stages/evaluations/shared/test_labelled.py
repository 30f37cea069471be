"""Suffixes: N images, C classes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepcluster_core.artifacts.file_names import INDEX
from deepcluster_core.artifacts.images import Images
from deepcluster_core.errors import ArtifactError
from stages.evaluations.shared.labelled import Data, Labelled, open_labelled
from tests.support.artifacts import Relabel
from tests.support.drawn_shapes import CLASSES


def split(images: Path, *, fraction: float = 0.25, seed: int = 31) -> Data:
    return open_labelled(images, None, validation_fraction=fraction, seed=seed)


def names_of(part: Labelled, data: Data) -> list[str]:
    return [data.classes[number] for number in part.class_N]


def labels_of(images: Path, part: Labelled) -> list[str]:
    """Return the labels of the images of a part as the index has them."""
    by_id = pd.read_parquet(images / INDEX).set_index("image_id")["label"]
    return by_id.loc[part.image_id_N].tolist()


def test_open_labelled__sets_a_part_of_each_class_aside(images: Path) -> None:
    data = split(images)

    assert data.classes == tuple(sorted(CLASSES))
    parts = (data.training, data.validation)
    ids = np.concatenate([part.image_id_N for part in parts])
    assert sorted(ids) == list(range(240)), "every image is in one part"
    assert np.bincount(data.validation.class_N).tolist() == [15] * 4
    for part in parts:
        assert names_of(part, data) == labels_of(images, part)
        assert (np.diff(part.image_id_N) > 0).all()


def test_open_labelled__the_seed_decides_which(images: Path) -> None:
    one, again, other = split(images), split(images), split(images, seed=32)

    np.testing.assert_array_equal(one.validation.image_id_N, again.validation.image_id_N)
    assert set(one.validation.image_id_N) != set(other.validation.image_id_N)


@pytest.mark.parametrize(("fraction", "expected"), [(0.001, 1), (0.999, 59)])
def test_open_labelled__both_parts_have_every_class(
    images: Path, fraction: float, expected: int
) -> None:
    data = split(images, fraction=fraction)

    assert np.bincount(data.validation.class_N).tolist() == [expected] * 4
    assert np.bincount(data.training.class_N).tolist() == [60 - expected] * 4


def test_open_labelled__classes_of_other_sizes_keep_their_shares(relabelled: Relabel) -> None:
    images = relabelled(lambda table: ["a"] * 200 + ["b"] * 36 + ["c"] * 4)

    data = split(images)

    assert np.bincount(data.validation.class_N).tolist() == [50, 9, 1]


def test_open_labelled__images_without_a_label_take_no_part(relabelled: Relabel) -> None:
    images = relabelled(lambda table: table.label.where(table.image_id % 3 != 0, None))

    data = split(images)

    ids = np.concatenate([data.training.image_id_N, data.validation.image_id_N])
    assert sorted(ids) == [i for i in range(240) if i % 3]
    assert np.bincount(data.validation.class_N).tolist() == [10] * 4
    assert names_of(data.validation, data) == labels_of(images, data.validation)


def test_open_labelled__matches_classes_by_name(images: Path, relabelled: Relabel) -> None:
    # Two of the four classes, the later one first: their numbers differ in this artifact.
    validation = relabelled(lambda table: ["square"] * 100 + ["bar"] * 100 + [None] * 40)

    data = open_labelled(images, validation, validation_fraction=0.5, seed=31)

    assert len(data.training.class_N) == 240, "nothing is set aside"
    assert data.validation.pictures.folder == validation
    assert data.classes == ("bar", "cross", "disc", "square")
    assert names_of(data.validation, data) == ["square"] * 100 + ["bar"] * 100
    assert data.validation.image_id_N.tolist() == list(range(200))


def test_named_labels__has_the_partition_of_true_labels(images: Path) -> None:
    pictures = Images(images)
    class_N, names = pictures.named_labels()

    truth_N = pictures.true_labels()

    assert truth_N is not None
    assert len(set(zip(class_N, truth_N, strict=True))) == len(names) == 4


def test_open_labelled__refuses_what_cannot_be_judged(images: Path, relabelled: Relabel) -> None:
    unlabelled = relabelled(lambda table: [None] * 240)
    one = relabelled(lambda table: ["a"] * 240)
    lonely = relabelled(lambda table: ["a"] * 238 + ["b", "c"])
    unknown = relabelled(lambda table: ["bar"] * 120 + ["zebra"] * 120)
    refusals: list[tuple[Path, Path | None, str]] = [
        (unlabelled, None, r"has no labels, but this"),
        (one, None, r"images of one class alone, 'a'"),
        (lonely, None, r"2 of 3 classes have one image alone: 'b', 'c'"),
        (images, unlabelled, r"has no labels, so nothing"),
        (images, unknown, r"1 of its 2 classes have no training images: 'zebra'"),
        (images, images, r"holds the very images that are trained on"),
    ]
    for training, validation, expected in refusals:
        with pytest.raises(ArtifactError, match=expected) as caught:
            open_labelled(training, validation, validation_fraction=0.25, seed=31)
        assert "Fix:" in str(caught.value)


def test_open_labelled__one_training_image_is_enough_with_validation_images(
    images: Path, relabelled: Relabel
) -> None:
    lonely = relabelled(lambda table: ["bar", "cross", "disc", *["square"] * 237])

    data = open_labelled(lonely, images, validation_fraction=0.25, seed=31)

    assert np.bincount(data.training.class_N).tolist() == [1, 1, 1, 237]
    assert len(data.validation.class_N) == 240
