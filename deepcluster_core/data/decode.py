"""Bytes of a picture -> uint8 pixels. Suffixes: H height, W width, C channels.

What a picture may be, and what becomes of it:

- The content decides what it is, never the name. Of several frames or pages the first is taken.
- Text, profiles and other notes never refuse a picture: where a codec stumbles over them, the
  picture is read without them (`bare_pictures`).
- Transparent pixels are laid on white. EXIF orientation is applied; one that is damaged counts as
  none. Colour profiles are ignored.
- 16-bit grey, integer and floating-point pictures become 8-bit by `deep`. `range` keeps the scale
  of all 16 bits, so that brightness can be compared between pictures; but a microscope or detector
  that uses 12 of its 16 bits then gives 15 of 255 at most: black. (A file that says that it has 12
  bits reaches white.) `stretch` maps the least and the greatest value of each picture (of each
  channel, for arrays) to 0 and 255. 16-bit *colour* files are read by Pillow as 8-bit, their high
  bytes: as `range`, whatever `deep` says. Where 0 is white the values are inverted first, as for 8
  bits, within the range of their type; floating-point ones from 65535, fractions from 1.
- `.npy` arrays (H, W) or (H, W, C) of uint8 or uint16 have any number of channels.
- A truncated picture is refused, never padded.
- Files of other kinds are refused by their name, with what to do (`signatures`, `unsupported`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile

from deepcluster_core.data.bare_pictures import without_notes
from deepcluster_core.data.deep_values import (
    Deep,
    Pixels,
    deep_to_grey,
    eight_bits,
    is_deep,
    with_true_key,
    with_true_values,
)
from deepcluster_core.data.encode import MAX_JPEG_SIDE, encode_jpeg, encode_png
from deepcluster_core.data.npy_arrays import MAGIC as NPY_MAGIC
from deepcluster_core.data.npy_arrays import read_array
from deepcluster_core.data.quiet import quiet_pillow
from deepcluster_core.data.signatures import explained, iso_media_kind
from deepcluster_core.data.tiff_pages import (
    HEIGHT,
    WIDTH,
    Page,
    as_pillow_reads_it,
    correct_tiles,
    raw_of_camera,
    read_page,
)
from deepcluster_core.data.unreadable import (
    DamagedImageError,
    UnreadableImageError,
    UnsupportedFeatureError,
    UnsupportedImageError,
)
from deepcluster_core.data.unsupported import is_lookalike, refused_raw, unsupported_feature

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

T = TypeVar("T")

MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded: Pillow's own limit for an error."""

MAX_ASPECT = 100
"""Longer side / shorter side. A line of pixels, enlarged until its shorter side fits, would fill
the memory, and no crop of it shows anything. Our choice; photographs stay below 20."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
"""Pillow's names, tried in this order. Left out: formats without a signature, which accept
arbitrary bytes (TGA), and those that start other programs (EPS)."""

_BLANKS = b"\xef\xbb\xbf \t\r\n"
"""What editors and web servers put in front of files: a byte order mark, blanks, line breaks. No
picture that we read begins with any of them."""

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
    """A picture, upright, and what it was before it was resized."""

    pixels_HWC: Pixels
    width: int
    """Pixels of the original, upright."""
    height: int
    format: str
    """JPEG, PNG, NPY …: found in the content."""


@dataclass(frozen=True)
class _Opened:
    """A picture whose header was read."""

    image: ImageFile.ImageFile
    data: bytes
    """What Pillow reads: the file, perhaps with corrected tags."""
    page: Page | None
    """Tags of a TIFF file, as they were before that."""


def decode(
    data: bytes, *, channels: int, shorter_side: int | None, deep: Deep = "range"
) -> Decoded:
    """Decode a picture and resize it; may be called from many threads.

    Args:
        data: the whole file.
        channels: C. 1 grey, 3 RGB; other numbers need `.npy` arrays.
        shorter_side: pixels; smaller pictures are enlarged to it as well. The longer side keeps
            the aspect, rounded down as torchvision's `Resize` does. None: the size stays.
        deep: how more than 8 bits become 8, see above.

    Raises:
        UnreadableImageError: damaged, not a picture, too large or too narrow, or the wrong
            number of channels.
    """
    if not data:
        raise UnreadableImageError("empty file")
    try:
        if data.startswith(NPY_MAGIC):
            return _decode_array(data, channels, shorter_side, deep)
        with quiet_pillow():
            return _decode_picture(data, channels, shorter_side, deep)
    except MemoryError as error:
        raise UnreadableImageError("needs more memory than there is") from error


def upright_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a picture as `decode` turns it; of its header alone.

    Raises:
        UnreadableImageError: the header is damaged, or not that of a picture.
    """
    with quiet_pillow():
        return _with_or_without_notes(data, _upright_size)


def _upright_size(opened: _Opened) -> tuple[int, int]:
    width, height = opened.image.size
    if page := opened.page:  # some Pillows have already exchanged the sides of a TIFF
        width, height = page.value(WIDTH, width), page.value(HEIGHT, height)
    return (height, width) if _orientation(opened.image) >= 5 else (width, height)  # quarter turn


def decode_packed(data: bytes) -> Pixels:
    """Return pixels_HWC of what `encode_jpeg` or `encode_png` made; checks nothing else."""
    return _pixels(_open(data).image)


def _decode_picture(data: bytes, channels: int, shorter_side: int | None, deep: Deep) -> Decoded:
    if channels not in (1, 3):
        name = _open(data).image.format or "picture"
        raise UnreadableImageError(
            f"a {name} file gives 1 or 3 channels, not {channels}: use .npy arrays (H, W, C)"
        )
    mode: Literal["L", "RGB"] = "L" if channels == 1 else "RGB"
    return _with_or_without_notes(data, lambda opened: _decoded(opened, mode, shorter_side, deep))


def _decoded(
    opened: _Opened, mode: Literal["L", "RGB"], shorter_side: int | None, deep: Deep
) -> Decoded:
    image = opened.image
    name = image.format or "picture"
    _refuse_size(image.width, image.height)
    # Pillow's plugins meet damaged files with nearly any exception, and one damaged picture of
    # a hundred million must not end the run.
    try:
        width, height = _load(opened, shorter_side)
        orientation = _orientation(image)
        plain = _to_8_bit(_true_pixels(opened), mode, deep)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:
        raise _failed(name, opened.data, error, is_header=False) from error
    if orientation in _UPRIGHT:
        plain = plain.transpose(_UPRIGHT[orientation])
    if orientation >= 5:  # a quarter turn
        width, height = height, width
    return Decoded(_pixels(_resized(plain, (width, height), shorter_side)), width, height, name)


def _with_or_without_notes(data: bytes, use: Callable[[_Opened], T]) -> T:
    """Open and use a picture; if that fails, once more without text, profiles and the like.

    What a codec can read as it is stays as the codec reads it. The second attempt costs damaged
    files as much as the first.
    """
    try:
        return use(_open(data))
    except (DamagedImageError, UnsupportedFeatureError):  # broken notes can look like either
        start = data.lstrip(_BLANKS)
        bare = without_notes(start)
        if bare == start:
            raise
    return use(_open(bare))


@cache
def _plugins() -> list[tuple[str, Callable[..., ImageFile.ImageFile], Callable[..., Any]]]:
    """Name, opener and signature check of the formats that this Pillow was built with."""
    Image.init()
    found = ((name, *Image.OPEN[name]) for name in FORMATS if name in Image.OPEN)
    return [(name, opener, accepts) for name, opener, accepts in found if accepts is not None]


def _open(data: bytes) -> _Opened:
    """Read the header. Not `Image.open`: it warns of large pictures and hides their size."""
    for start in (data, data.lstrip(_BLANKS)):
        if found := _find_plugin(start):
            return _open_as(*found, start)
    raise UnsupportedImageError(explained(data))


def _find_plugin(data: bytes) -> tuple[str, Callable[..., ImageFile.ImageFile]] | None:
    media = iso_media_kind(data)
    for name, opener, accepts in _plugins():
        start = data[:16].ljust(16, b"\0")  # Pillow looks at bytes without asking for their number
        accepted = media == "AVIF" if name == "AVIF" else accepts(start)
        if isinstance(accepted, str):  # Pillow's words for: this format was not built in
            raise UnsupportedImageError(f"{name} is not supported by the installed Pillow")
        if accepted and not is_lookalike(name, data):
            return name, opener
    return None


def _open_as(name: str, opener: Callable[..., ImageFile.ImageFile], data: bytes) -> _Opened:
    page = read_page(data) if name == "TIFF" else None
    if page is not None:
        if raw := raw_of_camera(page):
            raise UnsupportedImageError(refused_raw(raw))
        data = as_pillow_reads_it(data, page)
    try:
        image = opener(BytesIO(data), "")
    except MemoryError:
        raise
    except Exception as error:
        raise _failed(name, data, error, is_header=True) from error
    if page is not None:
        correct_tiles(image, page)
    return _Opened(image, data, page)


def _failed(name: str, data: bytes, error: Exception, *, is_header: bool) -> UnreadableImageError:
    """Tell damaged files from those that the codec was not made for."""
    is_header = is_header or "unknown raw mode" in str(error)  # Pillow finds out late
    if feature := unsupported_feature(name, data, is_header=is_header):
        return UnsupportedFeatureError(feature)
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return DamagedImageError(f"truncated file ({name})")
    return DamagedImageError(f"damaged or truncated {name} file: {text[:200]}")


def _refuse_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels is over the limit of {MAX_PIXELS} pixels"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(
            f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other"
        )


def _load(opened: _Opened, shorter_side: int | None) -> tuple[int, int]:
    """Decode the pixels in place; return width and height of the whole picture.

    JPEGs can be decoded at 1/2, 1/4 or 1/8 in a quarter of the time (8 megapixels to 256: 11 ms,
    not 44). The result is kept at twice the wanted size at least, because the codec's own
    reduction is a plain box filter, and the last halving by the antialiased one hides most of it:
    against the full decode, edges and noise differ by 0.5 to 0.8 of 255 on average, without that
    margin by 0.8 to 2.4.
    """
    image = opened.image
    size = image.size
    if shorter_side is not None:
        image.draft(None, (2 * shorter_side, 2 * shorter_side))
    is_reduced = image.size != size
    image.load()
    # TIFF turns itself upright while it loads, and older Pillows know its size only after that.
    return size if is_reduced else image.size


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 when there is none or the EXIF block is damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the picture itself is readable, so its notes may be anything
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _true_pixels(opened: _Opened) -> Image.Image:
    """Return what was loaded, corrected where Pillow has not read what the file means."""
    image = opened.image
    if opened.page is not None:
        return with_true_values(image, opened.page)
    if isinstance(image, PngImageFile) and image.has_transparency_data:
        return with_true_key(image, opened.data)
    return image


def _to_8_bit(image: Image.Image, mode: Literal["L", "RGB"], deep: Deep) -> Image.Image:
    if is_deep(image):
        return deep_to_grey(image, deep).convert(mode)
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):  # multiplied by alpha; Pillow converts in steps
            image = image.convert(image.mode.upper())
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image.convert(mode)


def _pixels(image: Image.Image) -> Pixels:
    pixels = np.array(image)  # a copy: views of a Pillow image cannot be written to
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def _resized(image: Image.Image, size: tuple[int, int], shorter_side: int | None) -> Image.Image:
    """Resize so that the shorter side of the original `size` becomes `shorter_side`."""
    if shorter_side is None:
        return image
    width, height = size
    longer_side = max(size) * shorter_side // min(size)
    to = (shorter_side, longer_side) if width <= height else (longer_side, shorter_side)
    if to[0] * to[1] > MAX_PIXELS:
        raise UnreadableImageError(f"{width} x {height} pixels would become {to[0]} x {to[1]}")
    return image.resize(to, Image.Resampling.BILINEAR)  # antialiased when it reduces


def _decode_array(data: bytes, channels: int, shorter_side: int | None, deep: Deep) -> Decoded:
    values_HWC = read_array(data)
    height, width, found = values_HWC.shape
    if found != channels:
        raise UnreadableImageError(f"array of {found} channels, not {channels}")
    if values_HWC.size == 0:
        raise UnreadableImageError(f"{width} x {height} pixels")
    _refuse_size(width, height)
    planes: list[Pixels] = []
    for channel in range(channels):
        plane_HW = values_HWC[..., channel]
        if plane_HW.dtype.itemsize == 2:
            plane_HW = eight_bits(plane_HW, deep)
        image = Image.fromarray(np.ascontiguousarray(plane_HW))
        planes.append(np.asarray(_resized(image, (width, height), shorter_side)))
    return Decoded(np.stack(planes, axis=-1), width, height, "NPY")
