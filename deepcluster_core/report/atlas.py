"""An atlas: small thumbnails of many images side by side in one picture, for the map.

Suffixes: N points of the map.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.errors import ArtifactError
from deepcluster_core.report.thumbnails import FORMAT, Pictures, Pixels, square_of

SIDES = (32, 24)
"""Sides of a thumbnail, pixels: the larger one if that many fit into the budget."""
MOST = 10_000
"""Largest number of thumbnails: an atlas of 3,200 pixels each way, which any browser opens."""
SAMPLE = 256
"""Number of thumbnails from which the size of all is estimated."""
SAFETY = 0.9
QUALITY, METHOD = 60, 0
PAPER = 238
"""Grey of a picture that can no longer be read."""


@dataclass(frozen=True)
class Atlas:
    """Thumbnails in rows, in the order of the points that have one."""

    data: bytes
    """A picture of type `thumbnails.MEDIA_TYPE`."""
    side: int
    columns: int
    has_N: NDArray[np.bool_]
    """Which points have a thumbnail."""


def make_atlas(
    images: Pictures,
    image_id_N: NDArray[np.integer],
    *,
    budget: int,
    generator: np.random.Generator,
) -> Atlas | None:
    """Return thumbnails of as many images as fit, chosen at random; None if hardly any fit.

    Args:
        images: source of the pixels, read from several threads.
        image_id_N: images of the points.
        budget: bytes that the picture may take. The size is estimated from a sample, so it can be
            missed by a few percent.
        generator: chooses the images.
    """
    order_N = generator.permutation(len(image_id_N))
    sample = [_tile(images, int(image_id_N[place]), SIDES[0]) for place in order_N[:SAMPLE]]
    natural = max(tile.shape[0] for tile in sample)
    most = min(MOST, len(image_id_N))
    side, count = _fitting(sample, natural, most, budget)
    if count < min(SAMPLE, len(image_id_N)) // 4:
        return None
    has_N = np.zeros(len(image_id_N), np.bool_)
    has_N[order_N[:count]] = True
    chosen = image_id_N[has_N].tolist()
    with ThreadPoolExecutor() as pool:
        tiles = [*pool.map(lambda image_id: _tile(images, image_id, side), chosen)]
    columns = ceil(sqrt(count))
    return Atlas(_encoded(tiles, side, columns), side, columns, has_N)


def _fitting(sample: Sequence[Pixels], natural: int, most: int, budget: int) -> tuple[int, int]:
    """Return the side of the thumbnails and their number."""
    side, count = SIDES[0], 0
    for largest_side in SIDES:
        side = min(natural, largest_side)
        tiles = [_resized(tile, side) for tile in sample]
        bytes_each = len(_encoded(tiles, side, ceil(sqrt(len(tiles))))) / len(tiles)
        count = min(most, int(SAFETY * budget / bytes_each))
        if count == most:
            break
    return side, count


def _tile(images: Pictures, image_id: int, side: int) -> Pixels:
    """Return the central square of an image, at most `side` pixels wide; grey if it is gone."""
    try:
        return _resized(square_of(images[image_id]), side)
    except ArtifactError:
        return np.full((side, side), PAPER, np.uint8)


def _resized(square: Pixels, side: int) -> Pixels:
    if square.shape[0] <= side:
        return square
    picture = Image.fromarray(square)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0))


def _encoded(tiles: Sequence[Pixels], side: int, columns: int) -> bytes:
    """Return tiles in rows as one picture; smaller ones are in the middle of their place."""
    rows = ceil(len(tiles) / columns)
    is_grey = all(tile.ndim == 2 for tile in tiles)
    sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        height, width = tile.shape[:2]
        top = row * side + (side - height) // 2
        left = column * side + (side - width) // 2
        place = sheet[top : top + height, left : left + width]
        place[:] = tile[:, :, None] if tile.ndim == 2 else tile
    picture = Image.fromarray(sheet[:, :, 0] if is_grey else sheet)
    file = BytesIO()
    picture.save(file, FORMAT, quality=QUALITY, method=METHOD)
    return file.getvalue()
