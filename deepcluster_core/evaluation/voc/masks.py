"""Masks of Pascal VOC: PNG files that hold the class number of each pixel.

The number is the pixel's index in the palette of the file. The colours of the palette serve display
only. Suffixes: H height, W width.
"""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from deepcluster_core.data.bare_pictures import without_notes

VOID = 255
"""Number for pixels that belong to no class: borders of objects, and difficult objects."""

CLASSES = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor".split()
)
"""VOC's class names by number, from 0."""


def _palette() -> NDArray[np.uint8]:
    """Return VOC's palette: the bits of each number, spread over red, green and blue.

    It equals the palette of VOC's development kit.
    """
    colours = np.zeros((256, 3), np.uint8)
    for number in range(256):
        for bit in range(8):
            # Lower bits of the number become higher bits of the colours.
            channel = bit % 3
            place = 7 - bit // 3
            value = (number >> bit) & 1
            colours[number, channel] |= value << place
    return colours


PALETTE = _palette()
"""VOC's colours (256, 3) in RGB, by number."""
_NUMBERS = {bytes(colour): number for number, colour in enumerate(PALETTE)}


def decode_mask(data: bytes, *, num_classes: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the class numbers (H, W) of a mask; may be called from many threads.

    Args:
        data: contents of a PNG file, with a palette or in 8-bit grey.
        num_classes: number of classes, including the background, which is 0.
        size: width and height of the mask's picture, pixels.

    Raises:
        ValueError: the mask is damaged, holds colours instead of numbers, differs in size from the
            picture, or holds an unknown number; the message is only the reason.
    """
    try:
        image = PngImageFile(BytesIO(without_notes(data)))
        _check_format(image, bits=data[24], size=size)  # byte 24 of a PNG is its bit depth
        number_HW = np.array(image)
    except ValueError:
        raise
    except Exception as error:  # Pillow raises nearly any exception for damaged files
        raise ValueError(f"damaged or truncated PNG file: {str(error)[:200]}") from error
    counts = np.bincount(number_HW.ravel(), minlength=256)
    used = np.flatnonzero(counts)
    is_unknown = (used >= num_classes) & (used != VOID)
    unknown = used[is_unknown]
    if unknown.size:
        raise ValueError(
            f"{unknown[0]} is not the number of a class; the numbers are 0 to {num_classes - 1}, "
            f"and {VOID} for pixels without a class"
        )
    if image.mode == "P":
        _check_numbering(image, used)
    return number_HW


def _check_format(image: PngImageFile, *, bits: int, size: tuple[int, int]) -> None:
    # Pillow rescales grey with fewer than 8 bits, which would change the numbers.
    is_8_bit_grey = image.mode == "L" and bits == 8
    if image.mode != "P" and not is_8_bit_grey:
        raise ValueError(
            f"its pixels are not numbers of classes: it must have a palette or be 8-bit grey, but "
            f"it is {image.mode} of {bits} bits"
        )
    if image.size != size:
        width, height = size
        raise ValueError(
            f"it is {image.width} x {image.height} pixels, its picture {width} x {height}"
        )


def _check_numbering(image: PngImageFile, used: NDArray[np.intp]) -> None:
    """Raise ValueError if the palette has VOC's colours, but under different numbers.

    Programs that shrink palettes produce such files. Palettes with any other colour are accepted,
    since their numbers cannot be checked.
    """
    palette = bytes(image.getpalette("RGB") or b"")  # may end before the greatest number
    own_numbers: dict[int, int] = {}
    for number in used.tolist():
        start = 3 * number
        own_number = _NUMBERS.get(palette[start : start + 3])
        if own_number is None:
            return
        own_numbers[number] = own_number
    for number, own_number in own_numbers.items():
        if number != own_number:
            raise ValueError(
                f"its palette has VOC's colour of {own_number} as number {number}: a program "
                f"has renumbered it"
            )
