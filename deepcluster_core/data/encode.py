"""Encode uint8 pixels as image files. Suffixes: H height, W width, C channels."""

from io import BytesIO

from PIL import Image

from deepcluster_core.data.deep_values import Pixels
from deepcluster_core.data.unreadable import UnreadableImageError

MAX_JPEG_SIDE = 65_500
"""The limit of the encoder, libjpeg."""


def encode_jpeg(pixels_HWC: Pixels, quality: int) -> bytes:
    """Return a JPEG file of 1 or 3 channels; `quality` is Pillow's, 1 to 100.

    Raises:
        UnreadableImageError: a side is too long for the format.
    """
    height, width = pixels_HWC.shape[:2]
    if max(height, width) > MAX_JPEG_SIDE:
        raise UnreadableImageError(
            f"{width} x {height} pixels: a JPEG has at most {MAX_JPEG_SIDE} a side, a PNG more"
        )
    return _encode(pixels_HWC, "JPEG", quality=quality)


def encode_png(pixels_HWC: Pixels) -> bytes:
    """Return a PNG file of 1 or 3 channels, lossless."""
    return _encode(pixels_HWC, "PNG")


def _encode(pixels_HWC: Pixels, format: str, **options: int) -> bytes:
    channels = pixels_HWC.shape[2]
    if channels not in (1, 3):
        raise ValueError(f"{format} holds 1 or 3 channels, not {channels}: pack raw pixels instead")
    # Pillow takes grey images without a dimension of channels.
    pixels = pixels_HWC[..., 0] if channels == 1 else pixels_HWC
    file = BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()
