"""Pictures and boxes that are scaled and mirrored together."""

import numpy as np
import pytest
import torch

from deepcluster_core.evaluation.voc.detection.scaling import Frame, Scale, clipped, scaled

FAST_RCNN = Scale(600, 1000)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((375, 500), (600, 800)),
        ((500, 375), (800, 600)),
        ((333, 500), (600, 901)),
        ((600, 1000), (600, 1000)),
        ((250, 500), (500, 1000)),
        ((1200, 900), (800, 600)),
        ((1, 5000), (1, 1000)),
    ],
)
def test_size__shorter_side_unless_the_longer_becomes_too_long(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    assert FAST_RCNN.size(*before) == after


@pytest.mark.parametrize("flipped", [False, True])
def test_enter__boxes_lie_where_the_scaled_picture_has_the_object(*, flipped: bool) -> None:
    picture_HWC = np.zeros((40, 60, 3), np.uint8)
    picture_HWC[10:30, 6:24] = 255
    larger_HWC = scaled(picture_HWC, Scale(100, 400))
    assert larger_HWC.shape == (100, 150, 3)
    seen_HW = (larger_HWC[:, ::-1] if flipped else larger_HWC)[..., 0] > 127
    rows, columns = np.flatnonzero(seen_HW.any(axis=1)), np.flatnonzero(seen_HW.any(axis=0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]

    frame = Frame((40, 60), larger_HWC.shape[:2], flipped)
    box_14 = frame.enter(torch.tensor([[6.0, 10, 24, 30]]))

    assert box_14[0].tolist() == pytest.approx(seen, abs=1)
    assert frame.leave(box_14)[0].tolist() == pytest.approx([6, 10, 24, 30], abs=1e-4)


def test_scaled__a_picture_of_the_right_size_stays_as_it_is() -> None:
    picture_HWC = np.zeros((40, 60, 1), np.uint8)
    assert scaled(picture_HWC, Scale(40, 60)) is picture_HWC


def test_clipped__leaves_out_what_lies_outside() -> None:
    box_N4 = torch.tensor([[-5.0, 2, 8, 9], [20, 0, 30, 5], [3, 3, 3, 8], [1, 1, 99, 99]])
    assert clipped(box_N4, (10, 20)).tolist() == [[0, 2, 8, 9], [1, 1, 20, 10]]
