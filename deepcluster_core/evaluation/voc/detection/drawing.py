"""A picture of detections: pictures side by side, with boxes in the colours of their verdicts.

Suffixes: H rows, W columns, C channels of a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deepcluster_core.data.decode import Pixels
from deepcluster_core.evaluation.mosaic import captioned, grid, in_colour, scaled_size

TILE_PX = 240
GAP_PX = 8
LINE_PX = 2
TEXT_PX = 11

COLOUR = {
    "right": (42, 157, 74),
    "wrong": (200, 50, 45),
    "difficult": (42, 111, 187),
    "missed": (150, 150, 150),
}
"""Colours by verdict; `missed` is for objects without a right detection."""


@dataclass(frozen=True)
class Outline:
    """A box to draw."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the picture."""
    text: str
    verdict: str
    """A key of `COLOUR`."""


@dataclass(frozen=True)
class Shown:
    """A picture to draw, with its boxes."""

    name: str
    picture_HWC: Pixels
    outlines: Sequence[Outline]


def draw_detections(shown: Sequence[Shown], *, columns: int) -> Pixels:
    """Draw one picture (H, W, 3) from one or more pictures with boxes."""
    tiles = [captioned(_outlined(one), one.name) for one in shown]
    return grid(tiles, columns=columns, gap_px=GAP_PX)


def _outlined(shown: Shown) -> Pixels:
    """Return a picture in colour with a longer side of `TILE_PX` and with its boxes."""
    picture = Image.fromarray(np.ascontiguousarray(in_colour(shown.picture_HWC)))
    scale = TILE_PX / max(picture.size)
    size = scaled_size(picture.width, picture.height, TILE_PX)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    brush = ImageDraw.Draw(picture)
    font = ImageFont.load_default(TEXT_PX)
    for outline in shown.outlines:
        left, top, right, bottom = (side * scale for side in outline.box)
        colour = COLOUR[outline.verdict]
        # Pillow draws the last pixel of a rectangle, too; it must not lie before the first.
        last_column = max(left, right - 1)
        last_row = max(top, bottom - 1)
        brush.rectangle((left, top, last_column, last_row), outline=colour, width=LINE_PX)
        text_place = (left + LINE_PX, top)
        text_box = brush.textbbox(text_place, outline.text, font=font)
        brush.rectangle(text_box, fill=colour)
        brush.text(text_place, outline.text, fill=(255, 255, 255), font=font)
    return np.asarray(picture)
