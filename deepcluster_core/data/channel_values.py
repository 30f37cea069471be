"""The values of a decoded picture before they become 8 bits, and how they do.

Suffixes: H height, W width, C channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepcluster_core.data.deep_scales import DeepRule, DeepScales, Pixels, check_finite
from deepcluster_core.data.deep_values import eight_bits
from deepcluster_core.data.unreadable import UnreadableImageError

MAX_VALUE_BYTES = 1 << 30
"""Limit on the bytes of a picture's values, checked before decoding: those of the largest picture
of 16-bit colour."""


@dataclass(frozen=True)
class ChannelValues:
    """A decoded picture in upright orientation, whose values have the type that the file stores."""

    values_HWC: NDArray[Any]
    """0, or the lowest value, is black."""
    alpha_HW: Pixels | None
    """0 where the picture is transparent, 255 where it is opaque; None if all of it is."""
    format: str
    declared: tuple[float, float] | None = None
    """The values of black and white that follow from the file; None for the limits of the type."""

    @property
    def is_deep(self) -> bool:
        """Whether the values have more than 8 bits."""
        return self.values_HWC.dtype != np.uint8

    @property
    def shown(self) -> NDArray[np.bool_] | None:
        """False where the picture is wholly transparent; None if it is nowhere."""
        return None if self.alpha_HW is None else self.alpha_HW > 0

    def pixels(self, channels: int, deep: DeepRule) -> Pixels:
        """Return uint8 pixels (H, W, C) on a white ground, with the wanted number of channels.

        Raises:
            UnreadableImageError: the picture has another number of channels, or the values cannot
                be converted.
        """
        found = self.values_HWC.shape[2]
        check_channels(found, channels, self.format)
        pixels_HWC = self._eight_bits(deep)
        if self.alpha_HW is not None:
            pixels_HWC = _on_white(pixels_HWC, self.alpha_HW)
        if found == channels:
            return pixels_HWC
        # Between grey and colour, as Pillow converts pictures of 8 bits.
        image = Image.fromarray(pixels_HWC[..., 0] if found == 1 else pixels_HWC)
        converted = np.array(image.convert("L" if channels == 1 else "RGB"))
        return converted.reshape(*pixels_HWC.shape[:2], channels)

    def _eight_bits(self, deep: DeepRule) -> Pixels:
        values_HWC = self.values_HWC
        if not self.is_deep:
            return values_HWC
        if isinstance(deep, DeepScales):
            return deep.eight_bits(values_HWC)
        if deep == "range" and self.declared is not None:
            check_finite(values_HWC)
            low, high = self.declared
            scaled_HWC = (values_HWC.astype(np.float64) - low) * (255 / (high - low))
            return np.rint(scaled_HWC.clip(0, 255)).astype(np.uint8)
        planes = [
            eight_bits(values_HWC[..., channel], deep, self.shown)
            for channel in range(values_HWC.shape[2])
        ]
        return np.stack(planes, axis=-1)


def highest(pictures: Iterable[ChannelValues]) -> ChannelValues:
    """Return the highest value of each pixel of several pictures: their maximum projection.

    Raises:
        UnreadableImageError: the pictures differ in their size, channels or type.
    """
    pages = iter(pictures)
    first = next(pages)
    values_HWC = first.values_HWC.copy()
    for page in pages:
        same_shape = page.values_HWC.shape == values_HWC.shape
        if not same_shape or page.values_HWC.dtype != values_HWC.dtype:
            raise UnreadableImageError(
                "its pages differ in size or type, so that they have no maximum: use "
                "dataset.pages: first or all"
            )
        np.maximum(values_HWC, page.values_HWC, out=values_HWC)
    return replace(first, values_HWC=values_HWC)


def check_channels(found: int, wanted: int, format: str) -> None:
    """Raise UnreadableImageError if channels of a file cannot become the wanted ones."""
    if found == wanted or {found, wanted} == {1, 3}:
        return
    number = "1 channel" if found == 1 else f"{found} channels"
    raise UnreadableImageError(
        f"{format} of {number}, not {wanted}: dataset.channels: {found} reads it"
    )


def check_value_bytes(num_values: int, itemsize: int) -> None:
    """Raise UnreadableImageError if the values of a picture would need too much memory."""
    if num_values * itemsize > MAX_VALUE_BYTES:
        raise UnreadableImageError(
            f"{num_values:,} values of {itemsize} bytes are over the limit of {MAX_VALUE_BYTES} "
            f"bytes for one image"
        )


def upright(values_HWC: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an array turned and mirrored as an EXIF or TIFF orientation, 1 to 8, says."""
    if orientation in (5, 6, 7, 8):
        values_HWC = values_HWC.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values_HWC = values_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values_HWC = values_HWC[::-1]
    return values_HWC


def _on_white(pixels_HWC: Pixels, alpha_HW: Pixels) -> Pixels:
    share_HW1 = alpha_HW[..., np.newaxis] / 255
    mixed_HWC = pixels_HWC * share_HW1 + 255 * (1 - share_HW1)
    return np.rint(mixed_HWC).astype(np.uint8)
