"""Small pictures of images, as bytes that stand in the page.

Each is a picture of its own, not a part of a sheet: so it has a text for those who cannot see it,
can be printed and copied, and WebP's header is 30 bytes (JPEG repeats its 600 in each). MNIST's
digits take 0.2 kB and 0.15 ms each, pieces of photographs at 64 px 1.1 kB and 0.5 ms.
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
METHOD = 0  # the fastest of WebP's; the default saves nothing at this size

Pixels = NDArray[np.uint8]


class Pictures(Protocol):
    """What `Images` is; safe to read in threads."""

    def __getitem__(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image."""
        ...


@dataclass(frozen=True)
class Thumbnails:
    """What could be read, and why the rest could not."""

    data: dict[int, bytes]
    """By image_id, of type `MEDIA_TYPE`."""
    side: int
    """Of the largest one, in pixels."""
    failures: dict[int, str]
    """Reasons, by image_id."""


def make_thumbnails(images: Pictures, image_ids: Sequence[int], side: int) -> Thumbnails:
    """Return thumbnails of images; those that cannot be read any more are named.

    Args:
        images: from which they are read, in threads.
        image_ids: each once or several times.
        side: of a thumbnail in pixels, at most; smaller images are not enlarged.
    """
    unique = sorted(set(image_ids))
    data: dict[int, bytes] = {}
    failures: dict[int, str] = {}
    largest = 0
    with ThreadPoolExecutor() as pool:  # decoding and encoding let go of the interpreter lock
        made = pool.map(lambda image_id: _attempt(images, image_id, side), unique)
        for image_id, found in zip(unique, made, strict=True):
            if isinstance(found, str):
                failures[image_id] = found
            else:
                data[image_id], seen = found
                largest = max(largest, seen)
    return Thumbnails(data, largest, failures)


def _attempt(images: Pictures, image_id: int, side: int) -> tuple[bytes, int] | str:
    try:
        return thumbnail(images[image_id], side)
    except ArtifactError as error:
        return first_line(error, limit=2000)


def thumbnail(image_HWC: Pixels, side: int) -> tuple[bytes, int]:
    """Return the central square of an image, which is what the network sees, and its side.

    Args:
        image_HWC: one channel is grey, three are colours; of any other number the first is shown.
        side: in pixels, at most.
    """
    height, width, channels = image_HWC.shape
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    square_HWC = image_HWC[top : top + square, left : left + square]
    shown = square_HWC if channels == 3 else square_HWC[:, :, 0]
    picture = Image.fromarray(np.ascontiguousarray(shown))
    if square > side:
        # A much larger image is first averaged over whole pixels: from 256 to 64 twice as fast.
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = BytesIO()
    picture.save(file, FORMAT, quality=QUALITY, method=METHOD)
    return file.getvalue(), picture.width
