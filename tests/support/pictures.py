"""Pictures to decode, and the results of decoding them. Suffixes: H height, W width, C channels."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.data.decode import UnreadableImageError, decode
from deepcluster_core.data.deep_scales import DeepRule
from deepcluster_core.data.pages import Pages


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401  Pillow's own options
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def npy_of(values: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def gradient(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """Return red that grows downwards, green that grows to the right, and blue stripes."""
    y_HW, x_HW = np.mgrid[0:height, 0:width]
    red_HW = y_HW * 255 // height
    green_HW = x_HW * 255 // width
    blue_HW = (y_HW + x_HW) % 256
    return np.stack([red_HW, green_HW, blue_HW], axis=-1).astype(np.uint8)


def left_right(exif: bytes = b"") -> bytes:
    """Return a JPEG, 32 wide and 16 high, whose left half is black and right half white."""
    pixels_HW = np.zeros((16, 32), np.uint8)
    pixels_HW[:, 16:] = 255
    return file_of(Image.fromarray(pixels_HW), "JPEG", quality=95, exif=exif)


def pixels_of(data: bytes, channels: int = 3, deep: DeepRule = "range") -> NDArray[np.uint8]:
    """Decode a picture in its own size."""
    return decode(data, channels=channels, shorter_side=None, deep=deep).pixels_HWC


def reason(
    data: bytes,
    channels: int = 3,
    side: int | None = 8,
    deep: DeepRule = "range",
    pages: Pages | None = None,
) -> str:
    """Return why a picture cannot be decoded."""
    with pytest.raises(UnreadableImageError) as error:
        decode(data, channels=channels, shorter_side=side, deep=deep, pages=pages)
    return str(error.value)


def problem(data: bytes, channels: int, pages: Pages | None = None) -> str:
    """Return why a damaged picture cannot be decoded; empty if it still can."""
    try:
        decode(data, channels=channels, shorter_side=8, pages=pages)
    except UnreadableImageError as error:
        return str(error) or "no reason"
    return ""
