"""Suffixes: H rows, W columns, C channels."""

import numpy as np
import pytest

from deepcluster_core.evaluation.mosaic import (
    CAPTION_PX,
    INK,
    PAPER,
    Pixels,
    captioned,
    enlarged,
    fitted,
    framed,
    grid,
    in_colour,
)


def plain(height: int, width: int, value: int) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def test_grid__every_tile_lies_in_the_middle_of_its_cell() -> None:
    tiles = [plain(4, 6, 10), plain(2, 2, 20), plain(4, 6, 30)]

    picture_HWC = grid(tiles, columns=2, gap_px=3)

    assert picture_HWC.shape == (4 + 3 + 4, 6 + 3 + 6, 3)
    assert (picture_HWC[:4, :6] == 10).all()
    assert (picture_HWC[1:3, 9 + 2 : 9 + 4] == 20).all()
    assert (picture_HWC[7:, :6] == 30).all()
    drawn = sum(tile.size for tile in tiles)
    assert np.count_nonzero(picture_HWC == PAPER) == picture_HWC.size - drawn


def test_grid__fewer_tiles_than_columns_leave_no_empty_ones() -> None:
    assert grid([plain(4, 6, 0)] * 2, columns=9, gap_px=1).shape == (4, 13, 3)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_in_colour__of_other_channels_than_three_the_first_is_grey(channels: int) -> None:
    image_HWC = np.random.default_rng(0).integers(256, size=(4, 5, channels)).astype(np.uint8)
    picture_HWC = in_colour(image_HWC)
    assert picture_HWC.shape == (4, 5, 3)
    assert (picture_HWC == image_HWC[:, :, :1]).all()


def test_enlarged__pixels_become_squares() -> None:
    image_HWC = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert (enlarged(image_HWC, 2) == image_HWC.repeat(2, 0).repeat(2, 1)).all()


def test_fitted__small_images_stay_sharp_and_large_ones_are_smoothed() -> None:
    stripes_HWC = np.zeros((8, 8, 1), np.uint8)
    stripes_HWC[:, ::2] = 255

    larger_HWC, smaller_HWC = fitted(stripes_HWC, 16), fitted(stripes_HWC, 4)

    assert (larger_HWC == in_colour(enlarged(stripes_HWC, 2))).all()
    assert smaller_HWC.shape == (4, 4, 3)
    # Left out instead of smoothed, every second column would be all black or all white.
    assert 64 < smaller_HWC.min() <= smaller_HWC.max() < 192


def test_framed__adds_a_dark_pixel_on_each_side() -> None:
    picture_HWC = framed(plain(3, 4, 200))
    assert picture_HWC.shape == (5, 6, 3)
    assert (picture_HWC[1:-1, 1:-1] == 200).all()
    assert (picture_HWC[[0, -1]] == INK).all()
    assert (picture_HWC[:, [0, -1]] == INK).all()


def test_captioned__writes_above_the_picture() -> None:
    one_HWC, other_HWC = (captioned(plain(10, 60, 7), f"filter {n}") for n in (1, 2))

    assert one_HWC.shape == (10 + CAPTION_PX, 60, 3)
    assert (one_HWC[CAPTION_PX:] == 7).all()
    assert one_HWC[:CAPTION_PX].min() < 128 < one_HWC[:CAPTION_PX].max()
    assert (one_HWC != other_HWC).any(), "another number looks different"
