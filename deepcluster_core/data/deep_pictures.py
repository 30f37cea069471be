"""Read all bits of the pictures that Pillow opens: 16-bit colour, and grey of more than 8 bits.

Suffixes: H height, W width, C channels.
"""

import struct
import sys
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from deepcluster_core.data.channel_values import ChannelValues
from deepcluster_core.data.deep_values import is_deep, stored_values
from deepcluster_core.data.picture_files import OpenedPicture, open_picture
from deepcluster_core.data.tiff_pages import PHOTOMETRIC, PLANAR
from deepcluster_core.data.unreadable import UnsupportedFeatureError

_RGB = 2  # value of PHOTOMETRIC
_PNG_BITS_AT, _PNG_COLOUR_TYPE_AT = 24, 25
_PNG_GREY_AND_ALPHA = 4
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX")


def is_deep_picture(opened: OpenedPicture) -> bool:
    """Return whether the file has more than 8 bits a channel, of which all can be read."""
    image = opened.image
    if is_deep(image):
        return True
    if isinstance(image, PngImageFile):
        return opened.data[_PNG_BITS_AT] == 16
    page = opened.page
    if page is None or image.mode not in _COLOUR_MODES:
        return False
    return page.bits == 16 and page.value(PHOTOMETRIC, 0) == _RGB


def deep_values(opened: OpenedPicture) -> ChannelValues:
    """Return the values of a picture for which `is_deep_picture` is true.

    Raises:
        UnsupportedFeatureError: Pillow can read the high bytes alone.
    """
    image = opened.image
    format = image.format or "picture"
    if isinstance(image, PngImageFile):
        return _of_png(image, opened.data)
    if not is_deep(image):
        return _of_colour_tiff(opened, format)
    image.load()
    values_HW = np.asarray(image)
    if opened.page is not None and opened.page.is_deep_grey:
        values_HW = stored_values(values_HW, opened.page)
    return ChannelValues(values_HW[..., np.newaxis], None, format)


def _of_png(image: PngImageFile, data: bytes) -> ChannelValues:
    if data[_PNG_COLOUR_TYPE_AT] == _PNG_GREY_AND_ALPHA:
        image.load()  # its orientation may come last
        values_HWC = _grey_and_alpha(data)
    elif is_deep(image):
        image.load()
        values_HWC = np.asarray(image)[..., np.newaxis]
    else:
        values_HWC = _both_bytes(image, PngImageFile(BytesIO(data)))
    key = image.info.get("transparency")
    if key is not None:
        differs_HWC = values_HWC != np.array(key, values_HWC.dtype)
        alpha_HW = differs_HWC.any(axis=-1).astype(np.uint8) * np.uint8(255)
        return ChannelValues(values_HWC, alpha_HW, "PNG")
    return _with_alpha(values_HWC, "PNG")


def _grey_and_alpha(data: bytes) -> NDArray[np.uint16]:
    """Return the values of a PNG with 16 bits of grey and 16 bits of alpha.

    Pillow has no way to read the low bytes. A pixel has 4 bytes, as in a PNG of RGBA with 8 bits,
    and filters work on bytes, so the file is read as one of those.
    """
    header = bytearray(data[12:29])
    header[12:14] = b"\x08\x06"  # 8 bits, RGBA
    checksum = struct.pack(">I", zlib.crc32(header))
    image = PngImageFile(BytesIO(data[:12] + header + checksum + data[33:]))
    image.load()
    bytes_HWC = np.ascontiguousarray(np.asarray(image))
    return bytes_HWC.view(">u2").astype(np.uint16)


def _of_colour_tiff(opened: OpenedPicture, format: str) -> ChannelValues:
    image = opened.image
    has_planes = opened.page is not None and opened.page.value(PLANAR, 1) == 2
    # Pillow chooses how these planes are read, whatever the tile says.
    if has_planes and image.tile[0].codec_name == "libtiff":
        raise UnsupportedFeatureError("TIFF with compressed planes of 16 bits is not supported")
    is_premultiplied = any("a" in _raw_mode(tile) for tile in image.tile)
    values_HWC = _both_bytes(image, open_picture(opened.data).image)
    if is_premultiplied:
        alpha_HW1 = values_HWC[..., 3:].astype(np.float64).clip(1)
        colour_HWC = np.rint(values_HWC[..., :3] * (65535 / alpha_HW1)).clip(0, 65535)
        values_HWC[..., :3] = colour_HWC.astype(np.uint16)
    return _with_alpha(values_HWC, format)


def _with_alpha(values_HWC: NDArray[np.uint16], format: str) -> ChannelValues:
    """Return values whose last channel is alpha if there are 2 or 4."""
    if values_HWC.shape[2] not in (2, 4):
        return ChannelValues(values_HWC, None, format)
    alpha_HW = (values_HWC[..., -1] >> 8).astype(np.uint8)
    return ChannelValues(values_HWC[..., :-1], alpha_HW, format)


def _both_bytes(image: ImageFile.ImageFile, again: ImageFile.ImageFile) -> NDArray[np.uint16]:
    """Return the 16-bit values of a colour picture that is opened twice and not loaded yet.

    Pillow keeps only the high byte of each value; in the other byte order, that is the low one.
    """
    image.tile = [_with_mode(tile, swapped=False) for tile in image.tile]
    again.tile = [_with_mode(tile, swapped=True) for tile in again.tile]
    image.load()
    again.load()
    high_HWC = np.asarray(image).astype(np.uint16) << np.uint16(8)
    return high_HWC | np.asarray(again).astype(np.uint16)


def _raw_mode(tile: Any) -> str:  # noqa: ANN401  Pillow's own type, which is private
    """Return how the values of a tile are stored, such as `RGB;16L`."""
    arguments = tile.args
    return arguments if isinstance(arguments, str) else arguments[0]


def _with_mode(tile: Any, *, swapped: bool) -> Any:  # noqa: ANN401
    """Return a tile that is read without dividing by alpha, and perhaps in the other byte order."""
    mode = _raw_mode(tile).replace("RGBa", "RGBA")
    if swapped:
        mode = mode[:-1] + _OTHER_ORDER[mode[-1]]
    if isinstance(tile.args, str):
        return tile._replace(args=mode)
    return tile._replace(args=(mode, *tile.args[1:]))
