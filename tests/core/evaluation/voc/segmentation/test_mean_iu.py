"""Suffixes: H rows, W columns, C classes."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from deepcluster_core.evaluation.voc.dataset import VOID
from deepcluster_core.evaluation.voc.segmentation.mean_iu import (
    confusion,
    intersection_over_union,
    mean_iu,
)


def masks(seed: int, *, classes: int = 5) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a true mask, a tenth of it void, and one that is found, half of it right."""
    generator = np.random.default_rng(seed)
    truth_HW, other_HW = generator.integers(classes, size=(2, 30, 40)).astype(np.uint8)
    found_HW = np.where(generator.random((30, 40)) < 0.5, truth_HW, other_HW)
    return np.where(generator.random((30, 40)) < 0.1, VOID, truth_HW).astype(np.uint8), found_HW


def test_confusion__counts_pixels_by_truth_and_finding() -> None:
    truth_HW = np.array([[0, 0, 1], [2, VOID, 1]], np.uint8)
    found_HW = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    counts_CC = confusion(truth_HW, found_HW, num_classes=3)
    assert counts_CC.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert counts_CC.dtype == np.int64


def test_intersection_over_union__by_hand() -> None:
    counts_CC = np.array([[90, 10, 0], [20, 30, 0], [5, 0, 0]])
    iu_C = intersection_over_union(counts_CC)
    assert iu_C == pytest.approx([90 / 125, 30 / 60, 0])
    assert mean_iu(iu_C) == pytest.approx((90 / 125 + 30 / 60) / 3)


def test_intersection_over_union__a_class_that_is_nowhere_does_not_count() -> None:
    iu_C = intersection_over_union(np.diag([4, 0, 2]))
    assert np.isnan(iu_C).tolist() == [False, True, False]
    assert mean_iu(iu_C) == 1


def test_intersection_over_union__a_class_that_is_only_found_counts_as_nothing() -> None:
    iu_C = intersection_over_union(np.array([[3, 1], [0, 0]]))
    assert iu_C.tolist() == [0.75, 0]


def test_intersection_over_union__is_that_of_sets_of_pixels_over_several_pictures() -> None:
    total_CC = np.zeros((5, 5), np.int64)
    truths, founds = list[set[tuple[int, ...]]](), list[set[tuple[int, ...]]]()
    pairs = [masks(seed) for seed in range(3)]
    for truth_HW, found_HW in pairs:
        total_CC += confusion(truth_HW, found_HW, num_classes=5)
    for number in range(5):
        truths.append(set())
        founds.append(set())
        for picture, (truth_HW, found_HW) in enumerate(pairs):
            for row, column in np.ndindex(truth_HW.shape):
                if truth_HW[row, column] == VOID:
                    continue
                if truth_HW[row, column] == number:
                    truths[-1].add((picture, row, column))
                if found_HW[row, column] == number:
                    founds[-1].add((picture, row, column))

    expected = [len(a & b) / len(a | b) for a, b in zip(truths, founds, strict=True)]
    assert intersection_over_union(total_CC) == pytest.approx(expected)


@pytest.mark.parity
def test_intersection_over_union__is_scikit_learns() -> None:
    truth_HW, found_HW = masks(9)
    iu_C = intersection_over_union(confusion(truth_HW, found_HW, num_classes=5))
    counts_HW = truth_HW != VOID
    theirs_C = jaccard_score(
        truth_HW[counts_HW],
        found_HW[counts_HW],
        average=None,  # pyright: ignore[reportArgumentType]  of each class
    )
    assert iu_C == pytest.approx(theirs_C)
    assert mean_iu(iu_C) == pytest.approx(np.mean(theirs_C))
