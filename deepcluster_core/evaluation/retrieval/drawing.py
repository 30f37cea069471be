"""A picture of rankings: a row per query, its best-ranked images in frames coloured by verdict.

Suffixes: H rows, W columns, C channels of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.evaluation.mosaic import captioned, framed, grid, in_colour, scaled_size

Pixels = NDArray[np.uint8]
Verdict = Literal["right", "wrong", "junk"]

COLOUR = {
    "right": (42, 157, 74),
    "wrong": (200, 50, 45),
    "junk": (136, 136, 136),
}
TILE_PX = 112
FRAME_PX = 4
GAP_PX = 8


@dataclass(frozen=True)
class Shown:
    """A query, its average precision and its best-ranked images."""

    query_HWC: Pixels
    average_precision: float
    """Average precision, 0 to 1."""
    found: Sequence[tuple[Pixels, Verdict]]
    """Images (H, W, C) of any size, best first."""


def draw_retrieved(rows: Sequence[Shown]) -> Pixels:
    """Draw a picture (H, W, 3).

    Args:
        rows: at least one row; all rows have equally many images.
    """
    tiles: list[Pixels] = []
    for row in rows:
        query = framed(_small(row.query_HWC))
        percent = 100 * row.average_precision
        tiles.append(captioned(query, f"AP {percent:.1f}"))
        for rank, (image_HWC, verdict) in enumerate(row.found, start=1):
            tile = _judged(_small(image_HWC), verdict)
            tiles.append(captioned(tile, f"{rank} {verdict}"))
    columns = 1 + len(rows[0].found)
    return grid(tiles, columns=columns, gap_px=GAP_PX)


def _small(image_HWC: Pixels) -> Pixels:
    """Return an image in colour, with a longer side of `TILE_PX` and an unchanged aspect ratio."""
    picture = Image.fromarray(np.ascontiguousarray(in_colour(image_HWC)))
    size = scaled_size(picture.width, picture.height, TILE_PX)
    # reducing_gap averages a much larger image over whole pixels first, which is faster.
    picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    return np.asarray(picture)


def _judged(picture_HWC: Pixels, verdict: Verdict) -> Pixels:
    """Return a picture in a frame of the verdict's colour."""
    height, width = picture_HWC.shape[:2]
    framed_height = height + 2 * FRAME_PX
    framed_width = width + 2 * FRAME_PX
    shape = (framed_height, framed_width, 3)
    framed_HWC = np.full(shape, COLOUR[verdict], np.uint8)
    inside = slice(FRAME_PX, -FRAME_PX)
    framed_HWC[inside, inside] = picture_HWC
    return framed_HWC
