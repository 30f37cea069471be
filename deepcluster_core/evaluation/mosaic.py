"""Pictures composed of tiles, which several evaluations draw.

Suffixes: H rows, W columns, C channels of an image; pictures (H, W, 3) are in colour.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER, INK = 255, 34  # the white and the near-black of the project's other pictures
GAP_PX = 2
CAPTION_PX = 14

Pixels = NDArray[np.uint8]


def in_colour(image_HWC: Pixels) -> Pixels:
    """Return an image as (H, W, 3). If it does not have 3 channels, show the first one in grey.

    `overview.png` shows images in this way, too.
    """
    return image_HWC if image_HWC.shape[2] == 3 else image_HWC[:, :, :1].repeat(3, axis=2)


def enlarged(image_HWC: Pixels, factor: int) -> Pixels:
    """Return an image with every pixel enlarged to a square of side `factor`."""
    return image_HWC.repeat(factor, axis=0).repeat(factor, axis=1)


def fitted(image_HWC: Pixels, side: int) -> Pixels:
    """Return an image with any number of channels as a picture (side, side, 3).

    Small images are enlarged with sharp pixels; larger images are reduced with smoothing.
    """
    picture = Image.fromarray(np.ascontiguousarray(in_colour(image_HWC)))
    is_smaller = max(picture.size) <= side
    method = Image.Resampling.NEAREST if is_smaller else Image.Resampling.BILINEAR
    return np.asarray(picture.resize((side, side), method))


def grid(tiles: Sequence[Pixels], *, columns: int, gap_px: int = GAP_PX) -> Pixels:
    """Return one picture of all tiles, row by row, each centred in its cell.

    Args:
        tiles: at least one tile, (H, W, 3), of any size; a cell has their largest height and width.
        columns: tiles per row.
        gap_px: width of the white gap between cells; there is no margin around the picture.
    """
    height = max(tile.shape[0] for tile in tiles)
    width = max(tile.shape[1] for tile in tiles)
    rows = -(-len(tiles) // columns)  # rounded up
    columns = min(columns, len(tiles))
    shape = (rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3)
    picture_HWC = np.full(shape, PAPER, np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top = row * (height + gap_px) + (height - tile.shape[0]) // 2
        left = column * (width + gap_px) + (width - tile.shape[1]) // 2
        picture_HWC[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return picture_HWC


def framed(picture_HWC: Pixels) -> Pixels:
    """Return a picture in a thin dark frame, so that white pictures have a visible border."""
    return np.pad(picture_HWC, ((1, 1), (1, 1), (0, 0)), constant_values=INK)


def captioned(picture_HWC: Pixels, text: str) -> Pixels:
    """Return a picture with a line of small text above it; text that is too long is cut off."""
    strip = Image.new("RGB", (picture_HWC.shape[1], CAPTION_PX), (PAPER,) * 3)
    font = ImageFont.load_default(CAPTION_PX - 3)
    ImageDraw.Draw(strip).text((1, 0), text, fill=(INK,) * 3, font=font)
    return np.concatenate((np.asarray(strip), picture_HWC))
