"""Convert values of more than 8 bits to uint8, with the white point and transparency of the file.

Suffixes: H height, W width, C channels.
"""

from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from deepcluster_core.data.deep_scales import Pixels
from deepcluster_core.data.tiff_pages import FLOAT, SIGNED, Page
from deepcluster_core.data.unreadable import UnreadableImageError

Simple = Literal["range", "stretch"]
"""The conversions that need no other picture than the one that is converted."""


def is_deep(image: Image.Image) -> bool:
    """Return whether an image has one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def eight_bits(
    values_HW: NDArray[Any], deep: Simple, shown_HW: NDArray[np.bool_] | None = None
) -> Pixels:
    """Map one channel to 0..255 as `deep` says; `stretch` maps a uniform channel to 0.

    Args:
        values_HW: the values of the file, where 0 is black.
        deep: the kind of mapping.
        shown_HW: False where the image is transparent, which becomes white; None if it is opaque.

    Raises:
        UnreadableImageError: values are not finite; or `deep` is `range` and they are not 16-bit
            values, but negative, above 65535, or fractions from 0 to 1.
    """
    # Values of transparent pixels must not influence the others.
    if shown_HW is not None:
        pixels_HW = np.full(values_HW.shape, 255, np.uint8)
        if shown_HW.any():
            pixels_HW[shown_HW] = eight_bits(values_HW[shown_HW], deep)
        return pixels_HW
    # A shortcut in integers for the most common type.
    is_16_bit = values_HW.dtype.kind == "u" and values_HW.dtype.itemsize == 2
    if is_16_bit and deep == "range":
        rounded_HW = (values_HW.astype(np.uint32) + 128) // 257
        return rounded_HW.astype(np.uint8)
    low = float(values_HW.min())
    high = float(values_HW.max())
    if not np.isfinite([low, high]).all():
        raise UnreadableImageError("pixel values are infinite or not numbers")
    if deep == "range":
        is_outside = low < 0 or high > 65535
        is_fraction = values_HW.dtype.kind == "f" and 0 < high <= 1
        if is_outside or is_fraction:
            raise UnreadableImageError(
                f"pixel values from {low:g} to {high:g} do not use the 16-bit range; "
                f"deep: stretch maps them to 0..255"
            )
        low, high = 0.0, 65535.0
    if low == high:
        return np.zeros(values_HW.shape, np.uint8)
    scale = 255 / (high - low)
    scaled_HW = (values_HW.astype(np.float64) - low) * scale
    return np.rint(scaled_HW).astype(np.uint8)


def deep_to_grey(image: Image.Image, deep: Simple) -> Image.Image:
    """Return a loaded deep image as 8-bit grey; the colour key of a PNG is transparent.

    Raises:
        UnreadableImageError: raised by `eight_bits`.
    """
    values_HW = np.asarray(image)
    key = image.info.get("transparency")
    shown_HW = None
    if isinstance(key, int):
        shown_HW = values_HW != key
    pixels_HW = eight_bits(values_HW, deep, shown_HW)
    return Image.fromarray(pixels_HW)


def with_true_values(image: Image.Image, page: Page) -> Image.Image:
    """Return a loaded TIFF image with its deep values interpreted according to its tags."""
    if not (is_deep(image) and page.is_deep_grey):
        return image
    values_HW = stored_values(np.asarray(image), page)
    # Pillow has no mode for this type, and int32 holds only half of its range.
    if values_HW.dtype == np.uint32:
        if values_HW.max() < 1 << 31:
            values_HW = values_HW.astype(np.int32)
        else:
            values_HW = values_HW.astype(np.float32)
    return Image.fromarray(values_HW)


def stored_values(values_HW: NDArray[Any], page: Page) -> NDArray[Any]:
    """Return values interpreted according to TIFF tags: 0 is black, and 12 bits reach white."""
    if page.bits == 32 and page.sample_format not in (SIGNED, FLOAT):
        values_HW = values_HW.view(np.uint32)
    if page.is_white_zero:
        values_HW = inverted(values_HW, page)
    if page.bits >= 16:
        return values_HW
    # The number of bits defines which value is white.
    white = (1 << page.bits) - 1
    scaled_HW = values_HW.astype(np.float64) * (65535 / white)
    return np.rint(scaled_HW).astype(np.uint16)


def inverted(values_HW: NDArray[Any], page: Page) -> NDArray[Any]:
    """Convert white-is-zero to black-is-zero within the range of the type."""
    if values_HW.dtype.kind == "f":
        return _white(values_HW) - values_HW
    if values_HW.min() >= 0:
        bits = page.bits - (page.sample_format == SIGNED)
        top = (1 << bits) - 1
    else:
        top = -1  # -1 - value has all bits of the value inverted
    inverted_HW = top - values_HW.astype(np.int64)
    return inverted_HW.astype(values_HW.dtype)


def _white(values_HW: NDArray[Any]) -> float:
    """Return the value of black in a floating-point channel whose white is 0.

    The type does not define it. Fractions end at 1, and other values at 65535 as `range` assumes.
    Values outside that range can only be stretched, for which any number is right.
    """
    low = float(values_HW.min())
    high = float(values_HW.max())
    if low < 0 or high > 65535:
        return low + high
    if high <= 1:
        return 1.0
    return 65535.0


def with_true_key(image: PngImageFile, data: bytes) -> Image.Image:
    """Return a loaded PNG with the transparent colour that the file defines.

    The colour key has the bit depth of the file. Pillow compares it with values that it has
    converted to 8 bits from 16, 2 or 4, so that no pixel, or the wrong ones, would be transparent.
    """
    key = image.info.get("transparency")
    bits = data[24]  # byte 24 of a PNG is its bit depth
    # Grey of 2 or 4 bits: convert the key as Pillow has converted the values.
    is_shallow_grey = image.mode == "L" and bits in (2, 4)
    if is_shallow_grey and isinstance(key, int):
        white = (1 << bits) - 1
        image.info["transparency"] = key * 255 // white
    is_16_bit_colour = image.mode == "RGB" and bits == 16
    if not (is_16_bit_colour and isinstance(key, tuple)):
        return image
    # Pillow keeps only the high bytes: compare the key with all 16 bits.
    high_HWC = np.asarray(image).astype(np.uint16)
    low_HWC = np.asarray(_low_bytes(data))
    values_HWC = high_HWC << 8 | low_HWC
    differs_HWC = values_HWC != np.array(key, np.uint16)
    shown_HW = differs_HWC.any(axis=-1)
    alpha_HW = shown_HW.astype(np.uint8) * np.uint8(255)
    del image.info["transparency"]
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(alpha_HW))
    return rgba


def _low_bytes(data: bytes) -> Image.Image:
    """Return the low byte of each 16-bit value, by reading the file in reversed byte order."""
    image = PngImageFile(BytesIO(data))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image
