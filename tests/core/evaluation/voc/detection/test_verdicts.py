"""VOC 2007's way to judge detections, against a literal reading of it in fractions."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from deepcluster_core.evaluation.voc.detection.verdicts import (
    NEITHER,
    RIGHT,
    WRONG,
    Truth,
    overlaps,
    precision_at_recalls,
    verdicts,
)

Box = tuple[int, int, int, int]
Detection = tuple[int, float, Box]  # picture, score, box
Object = tuple[int, Box, bool]  # picture, box, difficult


def truth_of(objects: Sequence[Object]) -> Truth:
    return Truth(
        np.array([picture for picture, _, _ in objects], np.int64),
        np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4),
        np.array([difficult for _, _, difficult in objects], np.bool_),
    )


def judged(detections: Sequence[Detection], objects: Sequence[Object]) -> list[int]:
    return verdicts(
        np.array([picture for picture, _, _ in detections], np.int64),
        np.array([score for _, score, _ in detections], np.float32),
        np.array([box for _, _, box in detections], np.float32).reshape(-1, 4),
        truth_of(objects),
    ).tolist()


def precision(detections: Sequence[Detection], objects: Sequence[Object]) -> float:
    return precision_at_recalls(
        np.array([score for _, score, _ in detections], np.float32),
        np.array(judged(detections, objects), np.int8),
        num_objects=sum(not difficult for _, _, difficult in objects),
    )


def inclusive_iou(one: Box, other: Box) -> Fraction:
    """VOC's own, of boxes that count from 1 and include the last pixel: with + 1."""
    a, b = ((left + 1, top + 1, right, bottom) for left, top, right, bottom in (one, other))
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    areas = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return Fraction(width * height, sum(areas) - width * height)


def literal(detections: Sequence[Detection], objects: Sequence[Object]) -> Fraction:
    """One detection after the other, in whole numbers."""
    taken: set[int] = set()
    curve: list[tuple[Fraction, Fraction]] = []
    right = wrong = 0
    total = sum(not difficult for _, _, difficult in objects)
    for picture, _, box in sorted(detections, key=lambda found: -found[1]):
        best, number = Fraction(-1), -1
        for candidate, (where, object_box, _) in enumerate(objects):
            if where == picture and inclusive_iou(box, object_box) > best:
                best, number = inclusive_iou(box, object_box), candidate
        if best < Fraction(1, 2):
            wrong += 1
        elif objects[number][2]:
            continue
        elif number in taken:
            wrong += 1
        else:
            taken.add(number)
            right += 1
        curve.append((Fraction(right, total), Fraction(right, right + wrong)))
    tenths = [Fraction(n, 10) for n in range(11)]
    greatest = [max([p for r, p in curve if r >= tenth], default=Fraction(0)) for tenth in tenths]
    return sum(greatest, Fraction(0)) / 11


def random_case(seed: int) -> tuple[list[Detection], list[Object]]:
    """Few pictures, coarse boxes and scores, so that ties and halves are common."""
    generator = np.random.default_rng(seed)
    num_pictures = int(generator.integers(1, 5))

    def box() -> Box:
        left, top = (int(n) for n in generator.integers(0, 4, 2))
        width, height = (int(n) for n in generator.integers(1, 5, 2))
        return left, top, left + width, top + height

    objects: list[Object] = [
        (int(generator.integers(num_pictures)), box(), bool(generator.random() < 0.3))
        for _ in range(int(generator.integers(0, 12)))
    ]
    objects.append((0, box(), False))
    detections: list[Detection] = []
    for _ in range(int(generator.integers(0, 25))):
        near = generator.random() < 0.5
        picture, place, _ = objects[int(generator.integers(len(objects)))]
        where = picture if near else int(generator.integers(num_pictures + 1))
        detections.append((where, int(generator.integers(5)) / 4, place if near else box()))
    return detections, objects


@pytest.mark.parity
def test_precision_at_recalls__is_that_of_the_literal_definition() -> None:
    cases = [random_case(seed) for seed in range(500)]
    ours = [precision(*case) for case in cases]
    assert ours == pytest.approx([float(literal(*case)) for case in cases], abs=1e-12)
    assert len({round(value, 6) for value in ours}) > 100, "the cases differ"


def test_precision_at_recalls__by_hand() -> None:
    # Right, wrong, right of four objects: precision 1 to recall 1/4, 2/3 to 1/2, and none beyond.
    objects: list[Object] = [(n, (0, 0, 10, 10), False) for n in range(4)]
    detections: list[Detection] = [
        (0, 0.9, (0, 0, 10, 10)),
        (0, 0.8, (50, 50, 60, 60)),
        (1, 0.7, (0, 0, 10, 10)),
    ]
    assert precision(detections, objects) == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)


def test_precision_at_recalls__three_of_ten_are_a_recall_of_three_tenths() -> None:
    objects: list[Object] = [(n, (0, 0, 10, 10), False) for n in range(10)]
    detections: list[Detection] = [(n, 1.0, (0, 0, 10, 10)) for n in range(3)]
    assert precision(detections, objects) == pytest.approx(4 / 11), "0, 0.1, 0.2 and 0.3"


@pytest.mark.parametrize("objects", [1, 7])
def test_precision_at_recalls__nothing_found_is_0(objects: int) -> None:
    assert precision([], [(n, (0, 0, 9, 9), False) for n in range(objects)]) == 0


def test_verdicts__the_surest_speaks_first_and_the_next_is_wrong() -> None:
    detections: list[Detection] = [
        (0, 0.5, (0, 0, 10, 10)),
        (0, 0.9, (0, 0, 10, 9)),
        (1, 0.9, (0, 0, 10, 10)),
    ]
    assert judged(detections, [(0, (0, 0, 10, 10), False)]) == [WRONG, RIGHT, WRONG]


def test_verdicts__a_found_object_is_not_passed_over_for_the_next_best() -> None:
    objects: list[Object] = [(0, (0, 0, 10, 10), False), (0, (0, 0, 10, 14), False)]
    detections: list[Detection] = [(0, 0.9, (0, 0, 10, 10)), (0, 0.8, (0, 0, 10, 11))]
    assert judged(detections, objects) == [RIGHT, WRONG], "the second overlaps the first most"


def test_verdicts__difficult_objects_count_neither_way_however_often() -> None:
    detections: list[Detection] = [(0, 0.9, (0, 0, 9, 9)), (0, 0.8, (0, 0, 9, 9))]
    assert judged(detections, [(0, (0, 0, 9, 9), True)]) == [NEITHER, NEITHER]


def test_verdicts__half_is_enough() -> None:
    assert judged([(0, 1.0, (0, 0, 10, 5))], [(0, (0, 0, 10, 10), False)]) == [RIGHT]
    assert judged([(0, 1.0, (0, 0, 10, 4))], [(0, (0, 0, 10, 10), False)]) == [WRONG]


def test_overlaps__is_voc_s_own_with_its_inclusive_pixels() -> None:
    generator = np.random.default_rng(0)
    low_P2 = generator.integers(0, 9, (2, 200, 2))
    box_P4 = np.concatenate((low_P2, low_P2 + generator.integers(1, 9, (2, 200, 2))), axis=2)
    ones, others = ([tuple(box) for box in boxes] for boxes in box_P4.tolist())
    theirs = [float(inclusive_iou(*pair)) for pair in zip(ones, others, strict=True)]
    assert overlaps(*box_P4.astype(np.float32)).tolist() == pytest.approx(theirs)
