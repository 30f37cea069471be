"""Windows of a map: what of it lies in a box."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcluster_core.evaluation.voc.detection.windows import pooled_windows
from deepcluster_core.models.dense import Place


def literal_windows(map_CHW: Tensor, box: list[float], place: Place, side: int) -> Tensor:
    """RoI pooling as published, one value after the other."""
    height, width = map_CHW.shape[1:]

    def pixel(at: float, count: int) -> int:
        on_map = min(max((at - place.first) / place.stride, 0), count - 1)
        return math.floor(on_map + 0.5)

    left, right = pixel(box[0], width), pixel(box[2] - 1, width)
    top, bottom = pixel(box[1], height), pixel(box[3] - 1, height)
    parts = torch.empty(len(map_CHW), side, side)
    for y in range(side):
        for x in range(side):
            rows = part(y, top, bottom - top + 1, side)
            columns = part(x, left, right - left + 1, side)
            parts[:, y, x] = map_CHW[:, rows, columns].amax(dim=(1, 2))
    return parts


def part(number: int, start: int, count: int, side: int) -> slice:
    return slice(start + number * count // side, start + math.ceil((number + 1) * count / side))


@pytest.mark.parametrize("place", [Place(16, 0), Place(16, 15), Place(8, 3.5)], ids=str)
def test_pooled_windows__is_roi_pooling_of_the_moved_boxes(place: Place) -> None:
    generator = np.random.default_rng(0)
    map_1CHW = torch.from_numpy(generator.random((1, 3, 20, 30), np.float32))
    low = generator.random((50, 2)) * (420, 280)
    box_R4 = np.concatenate((low, low + 4 + generator.random((50, 2)) * 200), axis=1)
    box_R4 = torch.from_numpy(box_R4.astype(np.float32).round())  # halves would round either way

    windows_RCSS = pooled_windows(map_1CHW, box_R4 + 0.25, place, side=4)

    for window_CSS, box in zip(windows_RCSS, (box_R4 + 0.25).tolist(), strict=True):
        assert torch.equal(window_CSS, literal_windows(map_1CHW[0], box, place, 4))


def test_pooled_windows__a_region_at_the_edge_still_has_something() -> None:
    map_1CHW = torch.ones(1, 1, 4, 4)
    edges_R4 = torch.tensor([[0.0, 0, 1, 1], [63, 63, 64, 64], [0, 63, 64, 64]])
    assert (pooled_windows(map_1CHW, edges_R4, Place(16, 15), side=3) == 1).all()


def test_pooled_windows__are_the_same_of_a_map_in_bfloat16() -> None:
    map_1CHW = torch.rand(1, 2, 9, 9).bfloat16()
    box_R4 = torch.tensor([[5.0, 20, 90, 110]])
    narrow, wide = (
        pooled_windows(values, box_R4, Place(16, 0), side=2)
        for values in (map_1CHW, map_1CHW.float())
    )
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, wide)
