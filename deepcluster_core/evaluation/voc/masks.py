"""Masks of Pascal VOC: PNG files in which each pixel has the number of its class.

The number is the index of the pixel's colour in the palette of the file. Colours are never asked:
they are there to be looked at. Suffixes: H height, W width.
"""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from deepcluster_core.data.bare_pictures import without_notes

VOID = 255
"""Number of pixels that belong to no class: borders of objects, and difficult objects."""

CLASSES = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor".split()
)
"""What VOC's numbers mean, from 0."""


def _palette() -> NDArray[np.uint8]:
    """Spread the bits of each number over red, green and blue, highest first, as VOC's devkit."""
    colours = np.zeros((256, 3), np.uint8)
    for number in range(256):
        for bit in range(8):
            channel, place = bit % 3, 7 - bit // 3
            colours[number, channel] |= (number >> bit & 1) << place
    return colours


PALETTE = _palette()
"""VOC's colours (256, 3) in RGB, by number."""
_NUMBERS = {bytes(colour): number for number, colour in enumerate(PALETTE)}


def decode_mask(data: bytes, *, num_classes: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the numbers of classes (H, W) of a mask; may be called from many threads.

    Args:
        data: a PNG file with a palette, or of 8-bit grey.
        num_classes: numbers below are those of classes, the background's 0 among them.
        size: width and height of its picture, pixels.

    Raises:
        ValueError: it is damaged, has colours instead of numbers, is of another size, or has the
            number of no class; the text is the reason alone.
    """
    try:
        image = PngImageFile(BytesIO(without_notes(data)))
        _refuse_unfit(image, bits=data[24], size=size)  # where the header of a PNG has them
        number_HW = np.array(image)
    except ValueError:
        raise
    except Exception as error:  # what Pillow makes of damaged files may be nearly anything
        raise ValueError(f"damaged or truncated PNG file: {str(error)[:200]}") from error
    used = np.bincount(number_HW.ravel(), minlength=256).nonzero()[0]
    if (beyond := used[(used >= num_classes) & (used != VOID)]).size:
        raise ValueError(
            f"{beyond[0]} is the number of no class; 0 to {num_classes - 1} are, and {VOID} is void"
        )
    if image.mode == "P":
        _refuse_renumbered(image, used)
    return number_HW


def _refuse_unfit(image: PngImageFile, *, bits: int, size: tuple[int, int]) -> None:
    if image.mode != "P" and (image.mode, bits) != ("L", 8):  # fewer bits of grey are stretched
        raise ValueError(
            f"its pixels are not numbers of classes: a palette or 8-bit grey is wanted, this is "
            f"{image.mode} of {bits} bits"
        )
    if image.size != size:
        raise ValueError("it is {} x {} pixels, its picture {} x {}".format(*image.size, *size))


def _refuse_renumbered(image: PngImageFile, used: NDArray[np.intp]) -> None:
    """Refuse VOC's colours under other numbers: programs that shrink palettes leave them so.

    Palettes of other colours may mean anything by them.
    """
    colours = bytes(image.getpalette("RGB") or b"")  # may end before the greatest number
    meant = {number: _NUMBERS.get(colours[3 * number : 3 * number + 3]) for number in used.tolist()}
    if None not in meant.values() and (moved := [n for n, own in meant.items() if n != own]):
        raise ValueError(
            f"its palette has VOC's colour of {meant[moved[0]]} as number {moved[0]}: a program "
            f"has renumbered it"
        )
