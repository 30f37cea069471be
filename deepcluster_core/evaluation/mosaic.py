"""Pictures composed of tiles, which several evaluations draw.

Suffixes: H rows, W columns, C channels of an image; pictures (H, W, 3) are in colour.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER, INK = 255, 34  # the white and the near-black of the project's other pictures
PAPER_RGB = (PAPER, PAPER, PAPER)
INK_RGB = (INK, INK, INK)
GAP_PX = 2
CAPTION_PX = 14

Pixels = NDArray[np.uint8]


def in_colour(image_HWC: Pixels) -> Pixels:
    """Return an image as (H, W, 3). If it does not have 3 channels, show the first one in grey.

    `overview.png` shows images in this way, too.
    """
    if image_HWC.shape[2] == 3:
        return image_HWC
    first_HW1 = image_HWC[:, :, :1]
    return first_HW1.repeat(3, axis=2)


def enlarged(image_HWC: Pixels, factor: int) -> Pixels:
    """Return an image with every pixel enlarged to a square of side `factor`."""
    return image_HWC.repeat(factor, axis=0).repeat(factor, axis=1)


def fitted(image_HWC: Pixels, side: int) -> Pixels:
    """Return an image with any number of channels as a picture (side, side, 3).

    Small images are enlarged with sharp pixels; larger images are reduced with smoothing.
    """
    picture = Image.fromarray(np.ascontiguousarray(in_colour(image_HWC)))
    if max(picture.size) <= side:
        method = Image.Resampling.NEAREST
    else:
        method = Image.Resampling.BILINEAR
    return np.asarray(picture.resize((side, side), method))


def scaled_size(width: int, height: int, longer_side: int) -> tuple[int, int]:
    """Return the width and height of a picture whose longer side is scaled to `longer_side`.

    A very long and narrow picture keeps at least one pixel across.
    """
    scale = longer_side / max(width, height)
    new_width = max(1, round(width * scale))
    new_height = max(1, round(height * scale))
    return new_width, new_height


def grid(tiles: Sequence[Pixels], *, columns: int, gap_px: int = GAP_PX) -> Pixels:
    """Return one picture of all tiles, row by row, each centred in its cell.

    Args:
        tiles: at least one tile, (H, W, 3), of any size; a cell has their largest height and width.
        columns: tiles per row.
        gap_px: width of the white gap between cells; there is no margin around the picture.
    """
    cell_height = max(tile.shape[0] for tile in tiles)
    cell_width = max(tile.shape[1] for tile in tiles)
    row_pitch = cell_height + gap_px
    column_pitch = cell_width + gap_px

    # A single row is only as wide as its tiles. The last gap is left out.
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    picture_height = rows * row_pitch - gap_px
    picture_width = columns * column_pitch - gap_px
    shape = (picture_height, picture_width, 3)
    picture_HWC = np.full(shape, PAPER, np.uint8)

    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        height, width = tile.shape[:2]
        top = row * row_pitch + (cell_height - height) // 2
        left = column * column_pitch + (cell_width - width) // 2
        bottom = top + height
        right = left + width
        picture_HWC[top:bottom, left:right] = tile
    return picture_HWC


def framed(picture_HWC: Pixels) -> Pixels:
    """Return a picture in a thin dark frame, so that white pictures have a visible border."""
    margins = ((1, 1), (1, 1), (0, 0))
    return np.pad(picture_HWC, margins, constant_values=INK)


def captioned(picture_HWC: Pixels, text: str) -> Pixels:
    """Return a picture with a line of small text above it; text that is too long is cut off."""
    width = picture_HWC.shape[1]
    strip = Image.new("RGB", (width, CAPTION_PX), PAPER_RGB)
    # The strip is a little higher than the letters, which then do not touch the picture.
    font = ImageFont.load_default(CAPTION_PX - 3)
    brush = ImageDraw.Draw(strip)
    brush.text((1, 0), text, fill=INK_RGB, font=font)
    return np.concatenate((np.asarray(strip), picture_HWC))
