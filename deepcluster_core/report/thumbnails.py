"""Thumbnails of images, as bytes that are embedded in the page.

Each thumbnail is a separate picture, not a part of a sprite sheet, so it has an alternative text,
and can be printed and copied. WebP's header takes only 30 bytes per picture; JPEG's takes 600.
MNIST's digits take 0.2 kB and 0.15 ms each, photographs at 64 px 1.1 kB and 0.5 ms. The atlas of
the map, whose pictures are smaller and many more, is a sprite sheet; see `atlas`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from deepcluster_core.errors import ArtifactError, first_line

FORMAT = "WEBP" if features.check("webp") else "JPEG"
MEDIA_TYPE = f"image/{FORMAT.lower()}"
QUALITY = 75
METHOD = 0  # WebP's fastest method; the default one saves no bytes at this size

SIDES = (96, 80, 64, 56, 44)
"""Sides of thumbnails, pixels: the largest one that fits into the budget, else the smallest, which
is as wide as a tile of a card on a screen of ordinary density."""
SMALL_UP_TO, SMALL_QUALITY = 56, 55
"""Largest side at which shrunken pictures have this quality: a sixth less bytes, hardly visible."""
SAMPLE = 48
"""Number of thumbnails from which the size of all is estimated."""

Pixels = NDArray[np.uint8]


class Pictures(Protocol):
    """The interface of `Images`; reading from several threads must be safe."""

    def __getitem__(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image."""
        ...


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of the readable images, and the reasons why others could not be read."""

    data: dict[int, bytes]
    """Thumbnails by image_id, of type `MEDIA_TYPE`."""
    side: int
    """Side of the largest thumbnail, pixels."""
    failures: dict[int, str]
    """Reasons for failures by image_id."""


def make_thumbnails(images: Pictures, image_ids: Sequence[int], side: int) -> Thumbnails:
    """Return thumbnails of images, and the reasons for those that can no longer be read.

    Args:
        images: source of the pixels, read from several threads.
        image_ids: images to read; duplicates are allowed.
        side: largest side of a thumbnail, pixels; smaller images are not enlarged.
    """
    # In order of image_id, neighbours on disk are read one after the other.
    unique = sorted(set(image_ids))
    data: dict[int, bytes] = {}
    failures: dict[int, str] = {}
    largest = 0
    # Threads help because decoding and encoding release the GIL.
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda image_id: _attempt(images, image_id, side), unique)
        for image_id, found in zip(unique, made, strict=True):
            if isinstance(found, str):
                failures[image_id] = found
            else:
                data[image_id], actual_side = found
                largest = max(largest, actual_side)
    return Thumbnails(data, largest, failures)


def side_within(images: Pictures, image_ids: Sequence[int], budget: int) -> int:
    """Return the largest of `SIDES` with which the thumbnails of these images fit into the budget.

    Args:
        images: source of the pixels, read from several threads.
        image_ids: images to show.
        budget: bytes for all of them. The size is estimated from a sample.
    """
    unique = sorted(set(image_ids))
    sample = unique[:: max(1, len(unique) // SAMPLE)]
    for side in SIDES:
        made = make_thumbnails(images, sample, side)
        num_bytes = sum(map(len, made.data.values()))
        # Smaller pictures, which no side enlarges, are as large with every side.
        if made.side < side or num_bytes * len(unique) <= budget * max(1, len(made.data)):
            return side
    return SIDES[-1]


def _attempt(images: Pictures, image_id: int, side: int) -> tuple[bytes, int] | str:
    """Return a thumbnail and its side, or the reason why the image cannot be read."""
    try:
        return thumbnail(images[image_id], side)
    except ArtifactError as error:
        return first_line(error, limit=2000)


def thumbnail(image_HWC: Pixels, side: int) -> tuple[bytes, int]:
    """Return the thumbnail of an image's central square, which the network sees, and its side.

    Args:
        image_HWC: pixels. Three channels are shown in colour; of any other number, only the first
            one is shown, in grey.
        side: largest side of the thumbnail, pixels.
    """
    shown = square_of(image_HWC)
    picture = Image.fromarray(shown)
    quality = QUALITY
    if len(shown) > side:
        quality = SMALL_QUALITY if side <= SMALL_UP_TO else QUALITY
        # reducing_gap averages a much larger image over whole pixels first, which is twice as fast
        # from 256 to 64.
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = BytesIO()
    picture.save(file, FORMAT, quality=quality, method=METHOD)
    return file.getvalue(), picture.width


def square_of(image_HWC: Pixels) -> Pixels:
    """Return an image's central square: (S, S, 3), or (S, S) of the first of other channels."""
    height, width, channels = image_HWC.shape
    square = min(height, width)
    top = (height - square) // 2
    left = (width - square) // 2
    shown = image_HWC[top : top + square, left : left + square]
    if channels != 3:
        shown = shown[:, :, 0]
    return np.ascontiguousarray(shown)
