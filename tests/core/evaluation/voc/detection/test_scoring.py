"""The table of detections, and the scores of classes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.dataset import Voc, VocObject
from deepcluster_core.evaluation.voc.detection.detector import Detections
from deepcluster_core.evaluation.voc.detection.drawing import COLOUR, draw_detections
from deepcluster_core.evaluation.voc.detection.fitting import Found
from deepcluster_core.evaluation.voc.detection.scoring import scored, shown
from deepcluster_core.evaluation.voc.detection.task import Subset, open_task
from tests.support.voc_tree import CLASSES, write_voc

DOG, EASY = (10.0, 10.0, 50.0, 50.0), False
JUDGED = Subset(
    ("a", "b"),
    (
        (VocObject("dog", DOG, EASY), VocObject("cat", (60, 10, 90, 50), EASY)),
        (VocObject("dog", DOG, True), VocObject("dog", (60, 60, 90, 90), EASY)),
    ),
)
FOUND = [
    Found(
        Detections(
            torch.tensor([[10.0, 10, 50, 48], [12, 10, 50, 50], [0, 0, 5, 5]]),
            torch.tensor([2, 2, 1]),
            torch.tensor([0.9, 0.8, 0.7]),
        ),
        10,
        [True, False],
    ),
    Found(
        Detections(torch.tensor([DOG]), torch.tensor([2]), torch.tensor([0.95])), 20, [True, True]
    ),
]


def test_scored__each_class_by_its_own_objects() -> None:
    table, scores = scored(FOUND, JUDGED, ("cat", "dog"))
    assert table["name"].tolist() == ["a", "a", "a", "b"]
    assert table["class"].tolist() == ["dog", "dog", "cat", "dog"]
    assert table["verdict"].tolist() == ["right", "wrong", "wrong", "difficult"]
    assert table[["left", "top", "right", "bottom"]].iloc[0].tolist() == [10, 10, 50, 48]
    cat, dog = scores
    assert (cat.name, cat.average_precision, cat.objects, cat.proposed) == ("cat", 0, 1, 0)
    assert (dog.objects, dog.proposed) == (2, 2), "the difficult one does not count"
    assert dog.average_precision == pytest.approx(6 / 11)


def test_shown__draws_what_is_found_and_what_is_missed() -> None:
    table, _ = scored(FOUND, JUDGED, ("cat", "dog"))
    picture_HWC = np.full((100, 120, 3), 9, np.uint8)
    first, second = (shown(picture_HWC, JUDGED, number, table) for number in (0, 1))
    assert [(o.text, o.verdict) for o in first.outlines] == [
        ("cat", "missed"),
        ("cat 0.70", "wrong"),
        ("dog 0.80", "wrong"),
        ("dog 0.90", "right"),
    ]
    assert [(o.text, o.verdict) for o in second.outlines] == [
        ("dog", "missed"),
        ("dog 0.95", "difficult"),
    ]
    drawn_HWC = draw_detections([first, second], columns=2)
    for verdict, colour in COLOUR.items():
        assert (drawn_HWC == colour).all(axis=2).sum() > 100, verdict
    # The left edge of the best box, at twice the size, below the caption.
    assert (drawn_HWC[14 + 60, 20] == COLOUR["right"]).all()


def test_open_task__learns_no_difficult_objects_but_judges_with_them(tmp_path: Path) -> None:
    drawn = write_voc(tmp_path, sizes={"train": 30, "val": 30, "test": 60})
    task = open_task(Voc(tmp_path), ("train", "test"))
    assert task.classes == CLASSES
    learnt = [found for objects in task.training.objects for found in objects]
    assert not any(found.difficult for found in learnt)
    train, test = list(drawn)[:30], list(drawn)[60:]
    easy = [sum(not found.difficult for found in drawn[name]) for name in train]
    assert task.training.names == tuple(name for name, n in zip(train, easy, strict=True) if n)
    assert len(task.training.names) < 30, "some show a difficult one alone"
    assert len(learnt) == sum(easy)
    assert task.judged.names == tuple(test)
    labelled = task.judged.labelled(task.classes)
    for name, objects in zip(test, labelled, strict=True):
        assert objects.box_O4.tolist() == [list(found.box) for found in drawn[name]]
        assert [CLASSES[label - 1] for label in objects.label_O] == [f.name for f in drawn[name]]


def test_open_task__a_class_that_one_subset_lacks_is_told(tmp_path: Path) -> None:
    write_voc(tmp_path, sizes={"train": 30, "test": 30})
    for path in (tmp_path / "VOCdevkit/VOC2007/Annotations").glob("*.xml"):
        if int(path.stem) >= 30:
            path.write_text(path.read_text().replace(">disc<", ">bar<"))
    with pytest.raises(SourceError, match=r"no picture of test shows a disc.*\n.*\n.*Fix"):
        open_task(Voc(tmp_path), ("train", "test"))
