"""Values of more than 8 bits -> uint8, and what files of such values say about white and alpha.

Suffixes: H height, W width, C channels.
"""

from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from deepcluster_core.data.tiff_pages import FLOAT, SIGNED, Page
from deepcluster_core.data.unreadable import UnreadableImageError

Deep = Literal["range", "stretch"]
Pixels = NDArray[np.uint8]


def is_deep(image: Image.Image) -> bool:
    """Tell whether a picture has one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def eight_bits(
    values_HW: NDArray[Any], deep: Deep, shown_HW: NDArray[np.bool_] | None = None
) -> Pixels:
    """Map one channel to 0..255, as `deep` says; a uniform channel is stretched to 0.

    Args:
        values_HW: as the file has them, 0 is black.
        deep: how.
        shown_HW: False where the picture is transparent: white there, whatever the value. None:
            nowhere.

    Raises:
        UnreadableImageError: values are not finite; or `range` was asked for, and they are
            not 16-bit values: negative, above 65535, or fractions from 0 to 1.
    """
    if shown_HW is not None:
        pixels_HW = np.full(values_HW.shape, 255, np.uint8)
        if shown_HW.any():
            pixels_HW[shown_HW] = eight_bits(values_HW[shown_HW], deep)
        return pixels_HW
    if values_HW.dtype.kind == "u" and values_HW.dtype.itemsize == 2 and deep == "range":
        return ((values_HW.astype(np.uint32) + 128) // 257).astype(np.uint8)
    low, high = float(values_HW.min()), float(values_HW.max())
    if not np.isfinite([low, high]).all():
        raise UnreadableImageError("pixel values are infinite or not numbers")
    if deep == "range":
        is_fraction = values_HW.dtype.kind == "f" and 0 < high <= 1
        if low < 0 or high > 65535 or is_fraction:
            raise UnreadableImageError(
                f"pixel values from {low:g} to {high:g} do not use the 16-bit range; "
                f"deep: stretch maps them to 0..255"
            )
        low, high = 0.0, 65535.0
    if low == high:
        return np.zeros(values_HW.shape, np.uint8)
    return np.rint((values_HW.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def deep_to_grey(image: Image.Image, deep: Deep) -> Image.Image:
    """Return a deep picture, loaded, as 8-bit grey; the colour key of a PNG is transparent.

    Raises:
        UnreadableImageError: see `eight_bits`.
    """
    values_HW = np.asarray(image)
    key = image.info.get("transparency")
    shown_HW = values_HW != key if isinstance(key, int) else None
    return Image.fromarray(eight_bits(values_HW, deep, shown_HW))


def with_true_values(image: Image.Image, page: Page) -> Image.Image:
    """Return a loaded TIFF picture whose deep values are what the tags of its page mean by them."""
    if not (is_deep(image) and page.is_deep_grey):
        return image
    values_HW = _stored_values(np.asarray(image), page)
    if values_HW.dtype == np.uint32:  # of which Pillow has no picture
        values_HW = values_HW.astype(np.float32 if values_HW.max() >= 1 << 31 else np.int32)
    return Image.fromarray(values_HW)


def _stored_values(values_HW: NDArray[Any], page: Page) -> NDArray[Any]:
    """Return values as the tags of a TIFF file mean them: 0 is black, and 12 bits end at white."""
    if page.bits == 32 and page.sample_format not in (SIGNED, FLOAT):
        values_HW = values_HW.view(np.uint32)
    if page.is_white_zero:
        values_HW = _inverted(values_HW, page)
    if page.bits < 16:  # the file says which value is white, as a PGM's greatest value does
        top = (1 << page.bits) - 1
        return np.rint(values_HW.astype(np.float64) * (65535 / top)).astype(np.uint16)
    return values_HW


def _inverted(values_HW: NDArray[Any], page: Page) -> NDArray[Any]:
    """Turn white-is-zero into black-is-zero, within the range that the type has."""
    if values_HW.dtype.kind == "f":
        return _white(values_HW) - values_HW
    bits = page.bits - (page.sample_format == SIGNED)
    top = (1 << bits) - 1 if values_HW.min() >= 0 else -1  # -1: the bits of each value turned over
    return (top - values_HW.astype(np.int64)).astype(values_HW.dtype)


def _white(values_HW: NDArray[Any]) -> float:
    """Return the black of a floating-point channel whose white is 0: no type says what it is.

    Fractions end at 1, other values at 65535 as `range` takes them. Beyond that only `stretch`
    applies, to which any number is right.
    """
    low, high = float(values_HW.min()), float(values_HW.max())
    if low < 0 or high > 65535:
        return low + high
    return 1.0 if high <= 1 else 65535.0


def with_true_key(image: PngImageFile, data: bytes) -> Image.Image:
    """Return a loaded PNG with its transparent colour as the file means it.

    The key has as many bits as the file has. Pillow compares it with values of 8 bits, to which
    it has reduced 16 or spread 2 or 4: no pixel, or others, would be transparent.
    """
    key, bits = image.info.get("transparency"), data[24]  # where the header of a PNG has them
    if image.mode == "L" and isinstance(key, int) and bits in (2, 4):
        image.info["transparency"] = key * 255 // ((1 << bits) - 1)
    if not (image.mode == "RGB" and isinstance(key, tuple) and bits == 16):
        return image
    low_HWC = np.asarray(_low_bytes(data))
    values_HWC = np.asarray(image).astype(np.uint16) << 8 | low_HWC
    shown_HW = (values_HWC != np.array(key, np.uint16)).any(axis=-1)
    del image.info["transparency"]
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(shown_HW.astype(np.uint8) * np.uint8(255)))
    return rgba


def _low_bytes(data: bytes) -> Image.Image:
    """Return the second byte of each 16-bit value: as if the file had the other byte order."""
    image = PngImageFile(BytesIO(data))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image
