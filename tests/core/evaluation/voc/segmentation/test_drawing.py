"""Suffixes: H rows, W columns, C channels."""

import numpy as np

from deepcluster_core.evaluation.mosaic import CAPTION_PX
from deepcluster_core.evaluation.voc.dataset import PALETTE, VOID
from deepcluster_core.evaluation.voc.segmentation.drawing import GAP_PX, TILE_PX, Shown, draw_masks


def test_draw_masks__a_row_is_a_picture_its_mask_and_each_network() -> None:
    size, numbers = (60, 80), {"truth": 1, "epoch 7": 2, "random": VOID}
    masks = {name: np.full(size, number, np.uint8) for name, number in numbers.items()}
    truth_HW = masks.pop("truth")
    grey_HWC = np.full((*size, 1), 77, np.uint8)
    upright = np.zeros((80, 60, 3), np.uint8)
    rows = [
        Shown("000001", grey_HWC, truth_HW, masks),
        Shown("000002", upright, truth_HW.T, {name: mask.T for name, mask in masks.items()}),
    ]

    picture_HWC = draw_masks(rows, ("background", "cat", "dog"))

    cell = TILE_PX + 2, TILE_PX + 2 + CAPTION_PX
    assert picture_HWC.shape == (2 * cell[1] + GAP_PX, 4 * cell[0] + 3 * GAP_PX, 3)
    colours = [(77, 77, 77), *(tuple(PALETTE[number]) for number in numbers.values())]
    for column, colour in enumerate(colours):
        x = column * (cell[0] + GAP_PX) + TILE_PX // 2
        assert tuple(picture_HWC[cell[1] // 2, x]) == colour
    assert tuple(picture_HWC[cell[1] + GAP_PX + cell[1] // 2, TILE_PX // 2]) == (0, 0, 0)
