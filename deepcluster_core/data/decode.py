"""Decode the bytes of an image file to uint8 pixels. Suffixes: H height, W width, C channels.

Which files are accepted, and how they are converted:

- The content decides the format, never the name. Of several frames or pages the first is read, or
  all of them as their maximum or as channels, as `pages` says.
- Metadata never makes an image unreadable: if a codec fails because of text, profiles and the like,
  the image is read without them (`bare_pictures`).
- Transparent pixels are composited onto white. EXIF orientation is applied; a damaged one is
  ignored, as are colour profiles.
- Values of more than 8 bits are converted to 8 bits as `deep` says:
  - Percentiles that were measured over a data set (`deep_scales`) become 0 and 255.
  - `range` keeps the scale of all 16 bits, so that brightness is comparable between images. The
    values of a microscope or detector that uses 12 of its 16 bits then reach at most 15 of 255,
    which is black. (In a file that declares 12 bits they reach white.)
  - `stretch` maps the smallest and the largest value of each image (of each channel, for arrays) to
    0 and 255.
  - `range` and `stretch` read 16-bit *colour* of PNG and TIFF by its high bytes, as Pillow does.
  - If 0 is white, the values are first inverted within the range of their type; floating-point
    values are inverted from 65535, fractions from 1.
- TIFF files with bands that Pillow has no mode for are read by tifffile (`tiff_bands`), DICOM files
  by pydicom (`dicom`), HEIC files by pillow-heif, where these packages are installed.
- `.npy` arrays (H, W) or (H, W, C) of uint8 or uint16 may have any number of channels.
- A truncated image raises an error and is never padded.
- For files of other kinds, the error names the kind and what to do (`signatures`, `unsupported`).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from deepcluster_core.data.channel_pages import are_combined
from deepcluster_core.data.channel_values import ChannelValues, check_channels, upright
from deepcluster_core.data.deep_pictures import is_deep_picture
from deepcluster_core.data.deep_scales import Deep, DeepRule, DeepScales, Pixels
from deepcluster_core.data.deep_values import (
    Simple,
    deep_to_grey,
    is_deep,
    with_true_key,
    with_true_values,
)
from deepcluster_core.data.dicom import is_dicom, read_frames
from deepcluster_core.data.encode import MAX_JPEG_SIDE, encode_jpeg, encode_png
from deepcluster_core.data.npy_arrays import MAGIC as NPY_MAGIC
from deepcluster_core.data.npy_arrays import read_array
from deepcluster_core.data.pages import Pages, num_pages, pages_of
from deepcluster_core.data.picture_files import (
    FORMATS,
    OpenedPicture,
    codec_error,
    open_picture,
    with_or_without_notes,
)
from deepcluster_core.data.picture_size import MAX_ASPECT, MAX_PIXELS, check_size
from deepcluster_core.data.picture_values import (
    channels_of_page,
    combined,
    combined_values,
    is_tiff,
    values_of_opened,
)
from deepcluster_core.data.tiff_bands import read_bands
from deepcluster_core.data.tiff_pages import HEIGHT, WIDTH
from deepcluster_core.data.unreadable import UnreadableImageError, UnsupportedFeatureError

__all__ = [
    "FORMATS",
    "MAX_ASPECT",
    "MAX_JPEG_SIDE",
    "MAX_PIXELS",
    "Decoded",
    "Deep",
    "Pixels",
    "UnreadableImageError",
    "decode",
    "decode_packed",
    "encode_jpeg",
    "encode_png",
    "upright_size",
]

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    """A decoded image in upright orientation, with facts about the original."""

    pixels_HWC: Pixels
    width: int
    """Width of the upright original in pixels."""
    height: int
    """Height of the upright original in pixels."""
    format: str
    """Format found in the content: JPEG, PNG, NPY, …"""
    num_pages: int = 1
    """Number of pages or frames of the file, of which one or all were read."""
    highest: float | None = None
    """The highest value of a picture of more than 8 bits that was converted by `range`."""
    is_deep: bool = False
    """Whether a picture that Pillow does not decode, such as DICOM, had more than 8 bits, and no
    window of its own that made them 8."""


def decode(
    data: bytes,
    *,
    channels: int,
    shorter_side: int | None,
    deep: DeepRule = "range",
    pages: Pages | None = None,
) -> Decoded:
    """Decode and resize an image; thread-safe.

    Args:
        data: the whole file.
        channels: 1 for grey, 3 for RGB; other numbers need `.npy` arrays or TIFF files.
        shorter_side: target length in pixels; smaller images are enlarged. The longer side keeps
            the aspect ratio, rounded down as in torchvision's `Resize`. None keeps the size.
        deep: conversion of more than 8 bits, as described in the module docstring.
        pages: `max` for the maximum of all pages, `channels` for each page as a channel; otherwise
            the first one is read.

    Raises:
        UnreadableImageError: the file is damaged or not an image, or the image is too large or too
            narrow or has the wrong number of channels.
    """
    if not data:
        raise UnreadableImageError("empty file")
    try:
        if data.startswith(NPY_MAGIC):
            return _decode_array(data, channels, shorter_side, deep)
        found = num_pages(data)
        if are_combined(data, channels, pages):
            decoded = _decode_pages(data, channels, shorter_side, deep, pages)
        else:
            decoded = _decode_picture(data, channels, shorter_side, deep)
        return replace(decoded, num_pages=found)
    except MemoryError as error:
        raise UnreadableImageError("needs more memory than there is") from error


def upright_size(data: bytes) -> tuple[int, int]:
    """Return width and height of an image in upright orientation, from its header alone.

    Raises:
        UnreadableImageError: the header is damaged, or not that of an image.
    """
    return with_or_without_notes(data, _upright_size)


def _upright_size(opened: OpenedPicture) -> tuple[int, int]:
    width, height = opened.image.size
    # Some versions of Pillow have already exchanged the sides of a TIFF.
    if opened.page is not None:
        width = opened.page.value(WIDTH, width)
        height = opened.page.value(HEIGHT, height)
    if _is_quarter_turn(_orientation(opened.image)):
        return height, width
    return width, height


def decode_packed(data: bytes) -> Pixels:
    """Return pixels_HWC of a file from `encode_jpeg` or `encode_png`, without the other checks."""
    return _pixels(open_picture(data).image)


def _decode_picture(
    data: bytes, channels: int, shorter_side: int | None, deep: DeepRule
) -> Decoded:
    needs_values = is_dicom(data) or (is_tiff(data) and channels not in (1, 3))
    if not needs_values:
        if channels not in (1, 3):
            name = open_picture(data).image.format or "picture"
            raise UnreadableImageError(
                f"a {name} file gives 1 or 3 channels, not {channels}: use .npy arrays (H, W, C) "
                f"or TIFF files"
            )
        mode: Literal["L", "RGB"] = "L" if channels == 1 else "RGB"
        try:
            return with_or_without_notes(
                data, lambda opened: _decoded(opened, mode, shorter_side, deep)
            )
        except UnsupportedFeatureError:
            if not is_tiff(data):
                raise
    # Pillow cannot read these, but other packages can.
    values = next(read_frames(data, [0])) if is_dicom(data) else read_bands(data, channels)
    return _from_values(values, channels, shorter_side, deep)


def _decode_pages(
    data: bytes, channels: int, shorter_side: int | None, deep: DeepRule, how: Pages | None
) -> Decoded:
    """Decode all pages as one picture: their maximum, or each as a channel."""
    values = combined_values(data, channels, how)
    if values is None:
        page_channels = channels_of_page(channels, how)
        pages = (_decode_picture(page, page_channels, None, deep) for page in pages_of(data))
        pixels = (ChannelValues(page.pixels_HWC, None, page.format) for page in pages)
        values = combined(pixels, channels, how)
    return _from_values(values, channels, shorter_side, deep)


def _from_values(
    values: ChannelValues, channels: int, shorter_side: int | None, deep: DeepRule
) -> Decoded:
    """Convert and resize values of any type."""
    pixels_HWC = values.pixels(channels, deep)
    height, width, _ = pixels_HWC.shape
    top = None
    if values.is_deep and deep == "range" and values.declared is None:
        top = float(values.values_HWC.max())
    resized_HWC = _resized_planes(pixels_HWC, shorter_side)
    return Decoded(resized_HWC, width, height, values.format, 1, top, values.is_deep)


def _decoded(
    opened: OpenedPicture, mode: Literal["L", "RGB"], shorter_side: int | None, deep: DeepRule
) -> Decoded:
    image = opened.image
    name = image.format or "picture"
    check_size(image.width, image.height)
    # Pillow's plugins raise nearly any exception for damaged files, and one damaged image in a
    # hundred million must not end the run.
    try:
        if isinstance(deep, DeepScales):
            values = values_of_opened(opened)
            if values is not None:
                turned = _turned(values, _orientation(image))
                return _from_values(turned, 1 if mode == "L" else 3, shorter_side, deep)
            deep = "range"  # has no effect on 8 bits
        width, height = _load(opened, shorter_side)
        orientation = _orientation(image)
        true_image = _true_pixels(opened)
        top = _highest(opened, true_image, deep)
        plain = _to_8_bit(true_image, mode, deep)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:
        raise codec_error(name, opened.data, error, is_header=False) from error
    if orientation in _UPRIGHT:
        plain = plain.transpose(_UPRIGHT[orientation])
    if _is_quarter_turn(orientation):
        width, height = height, width
    resized = _resized(plain, (width, height), shorter_side)
    return Decoded(_pixels(resized), width, height, name, 1, top)


def _turned(values: ChannelValues, orientation: int) -> ChannelValues:
    alpha_HW = values.alpha_HW
    if alpha_HW is not None:
        alpha_HW = upright(alpha_HW, orientation)
    values_HWC = upright(values.values_HWC, orientation)
    return replace(values, values_HWC=values_HWC, alpha_HW=alpha_HW)


def _highest(opened: OpenedPicture, image: Image.Image, deep: Simple) -> float | None:
    """Return the highest value of a loaded picture of more than 8 bits, for `range`."""
    if deep != "range":
        return None
    if is_deep(image):
        return float(np.asarray(image).max())
    if is_deep_picture(opened):
        return float(np.asarray(image).max()) * 257  # from the high byte
    return None


def _load(opened: OpenedPicture, shorter_side: int | None) -> tuple[int, int]:
    """Decode the pixels in place; return width and height of the whole image.

    JPEGs can be decoded at 1/2, 1/4 or 1/8 of their size in a quarter of the time (8 megapixels to
    256 px: 11 ms instead of 44). The codec reduces with a plain box filter. It therefore keeps at
    least twice the target size, and the last halving with an antialiased filter hides most of the
    difference: compared with a full decode, edges and noise differ by 0.5 to 0.8 of 255 on average,
    and by 0.8 to 2.4 without that margin.
    """
    image = opened.image
    size = image.size
    # Only of a JPEG: the plugin for HEIC would take a thumbnail.
    if shorter_side is not None and isinstance(image, JpegImageFile):
        smallest_side = 2 * shorter_side
        image.draft(None, (smallest_side, smallest_side))
    is_reduced = image.size != size
    image.load()
    # Pillow turns a TIFF upright while loading, and older versions know the size only afterwards.
    return size if is_reduced else image.size


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or the EXIF block is damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata must not make a readable image fail
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _is_quarter_turn(orientation: int) -> bool:
    return orientation >= 5


def _true_pixels(opened: OpenedPicture) -> Image.Image:
    """Return the loaded image with the values that Pillow misinterprets corrected."""
    image = opened.image
    if opened.page is not None:
        return with_true_values(image, opened.page)
    if isinstance(image, PngImageFile) and image.has_transparency_data:
        return with_true_key(image, opened.data)
    return image


def _to_8_bit(image: Image.Image, mode: Literal["L", "RGB"], deep: Simple) -> Image.Image:
    if is_deep(image):
        return deep_to_grey(image, deep).convert(mode)
    if image.has_transparency_data:
        # Pillow converts premultiplied alpha only in steps.
        if image.mode in ("La", "RGBa"):
            image = image.convert(image.mode.upper())
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image.convert(mode)


def _pixels(image: Image.Image) -> Pixels:
    pixels = np.array(image)  # a copy: views of a Pillow image cannot be written to
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    return pixels


def _resized(image: Image.Image, size: tuple[int, int], shorter_side: int | None) -> Image.Image:
    """Resize so that the shorter side of the original `size` becomes `shorter_side`."""
    if shorter_side is None:
        return image
    width, height = size
    longer_side = max(size) * shorter_side // min(size)
    if width <= height:
        new_width, new_height = shorter_side, longer_side
    else:
        new_width, new_height = longer_side, shorter_side
    # A small file enlarged to a large target must not fill the memory.
    if new_width * new_height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels would become {new_width} x {new_height}"
        )
    # Pillow's filter is antialiased when it reduces.
    return image.resize((new_width, new_height), Image.Resampling.BILINEAR)


def _decode_array(data: bytes, channels: int, shorter_side: int | None, deep: DeepRule) -> Decoded:
    values_HWC = read_array(data)
    height, width, found = values_HWC.shape
    check_channels(found, channels, "NPY")
    check_size(width, height)
    return _from_values(ChannelValues(values_HWC, None, "NPY"), channels, shorter_side, deep)


def _resized_planes(pixels_HWC: Pixels, shorter_side: int | None) -> Pixels:
    """Resize any number of channels, which Pillow can only do one by one."""
    height, width, channels = pixels_HWC.shape
    planes: list[Pixels] = []
    for channel in range(channels):
        image = Image.fromarray(np.ascontiguousarray(pixels_HWC[..., channel]))
        planes.append(np.asarray(_resized(image, (width, height), shorter_side)))
    return np.stack(planes, axis=-1)
