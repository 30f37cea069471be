"""Bytes of a picture -> uint8 pixels. Suffixes: H height, W width, C channels.

What a picture may be, and what becomes of it:

- The content decides what it is, never the name. Of several frames or pages the first is taken.
- Transparent pixels are laid on white. EXIF orientation is applied. Colour profiles are ignored.
- 16-bit grey, integer and floating-point pictures become 8-bit by `deep`. `range` keeps the scale
  of all 16 bits, so that brightness can be compared between pictures; but a microscope or detector
  that uses 12 of its 16 bits then gives 15 of 255 at most: black. `stretch` maps the least and the
  greatest value of each picture (of each channel, for arrays) to 0 and 255. 16-bit *colour* files
  are read by Pillow as 8-bit, their high bytes: as `range`, whatever `deep` says.
- `.npy` arrays (H, W) or (H, W, C) of uint8 or uint16 have any number of channels.
- A truncated picture is refused, never padded.
"""

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, ImageFile

Deep = Literal["range", "stretch"]
Pixels = NDArray[np.uint8]

MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded: Pillow's own limit for an error."""

MAX_ASPECT = 100
"""Longer side / shorter side. A line of pixels, enlarged until its shorter side fits, would fill
the memory, and no crop of it shows anything. Our choice; photographs stay below 20."""

MAX_JPEG_SIDE = 65_500
"""Of the encoder, libjpeg."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
"""Pillow's names, tried in this order. Left out: formats without a signature, which accept
arbitrary bytes (TGA), and those that start other programs (EPS)."""

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


class UnreadableImageError(ValueError):
    """This picture cannot be used; the message is the reason, short, for the skipped table."""


@dataclass(frozen=True)
class Decoded:
    """A picture, upright, and what it was before it was resized."""

    pixels_HWC: Pixels
    width: int
    """Pixels of the original, upright."""
    height: int
    format: str
    """JPEG, PNG, NPY …: found in the content."""


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
        if data.startswith(npy.MAGIC_PREFIX):
            return _decode_array(data, channels, shorter_side, deep)
        with _quiet_pillow():
            return _decode_picture(data, channels, shorter_side, deep)
    except MemoryError as error:
        raise UnreadableImageError("needs more memory than there is") from error


def upright_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a picture as `decode` turns it; of its header alone.

    Raises:
        UnreadableImageError: the header is damaged, or not that of a picture.
    """
    with _quiet_pillow():
        image = _open(data)
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)  # a quarter turn


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


def decode_packed(data: bytes) -> Pixels:
    """Return pixels_HWC of what `encode_jpeg` or `encode_png` made; checks nothing else."""
    return _pixels(_open(data))


def _encode(pixels_HWC: Pixels, format: str, **options: int) -> bytes:
    channels = pixels_HWC.shape[2]
    if channels not in (1, 3):
        raise ValueError(f"{format} holds 1 or 3 channels, not {channels}: pack raw pixels instead")
    file = BytesIO()
    pixels = pixels_HWC[..., 0] if channels == 1 else pixels_HWC
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def _decode_picture(data: bytes, channels: int, shorter_side: int | None, deep: Deep) -> Decoded:
    image = _open(data)
    name = image.format or "picture"
    if channels not in (1, 3):
        raise UnreadableImageError(
            f"a {name} file gives 1 or 3 channels, not {channels}: use .npy arrays (H, W, C)"
        )
    _refuse_size(image.width, image.height)
    # Pillow's plugins meet damaged files with nearly any exception, and one damaged picture of
    # a hundred million must not end the run.
    try:
        width, height = _load(image, shorter_side)
        orientation = _orientation(image)
        plain = _to_8_bit(image, "L" if channels == 1 else "RGB", deep)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(name, error) from error
    if orientation in _UPRIGHT:
        plain = plain.transpose(_UPRIGHT[orientation])
    if orientation >= 5:  # a quarter turn
        width, height = height, width
    return Decoded(_pixels(_resized(plain, (width, height), shorter_side)), width, height, name)


@cache
def _plugins() -> list[tuple[str, Callable[..., ImageFile.ImageFile], Callable[..., Any]]]:
    """Name, opener and signature check of the formats that this Pillow was built with."""
    Image.init()
    found = ((name, *Image.OPEN[name]) for name in FORMATS if name in Image.OPEN)
    return [(name, opener, accepts) for name, opener, accepts in found if accepts is not None]


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header. Not `Image.open`: it warns of large pictures and hides their size."""
    file: IO[bytes] = BytesIO(data)
    for name, opener, accepts in _plugins():
        accepted = accepts(data[:16])
        if isinstance(accepted, str):  # Pillow's words for: this format was not built in
            raise UnreadableImageError(accepted)
        if accepted:
            try:
                file.seek(0)
                return opener(file, "")
            except MemoryError:
                raise
            except Exception as error:
                raise _damaged(name, error) from error
    raise UnreadableImageError(f"not an image: starts with {data[:8]!r}")


def _damaged(name: str, error: Exception) -> UnreadableImageError:
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return UnreadableImageError(f"truncated file ({name})")
    return UnreadableImageError(f"damaged or truncated {name} file: {text[:200]}")


def _refuse_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels is over the limit of {MAX_PIXELS} pixels"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(
            f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other"
        )


def _load(image: ImageFile.ImageFile, shorter_side: int | None) -> tuple[int, int]:
    """Decode the pixels in place; return width and height of the whole picture.

    JPEGs can be decoded at 1/2, 1/4 or 1/8 in a quarter of the time (8 megapixels to 256: 11 ms,
    not 44). The result is kept at twice the wanted size at least, because the codec's own
    reduction is a plain box filter, and the last halving by the antialiased one hides most of it:
    against the full decode, edges and noise differ by 0.5 to 0.8 of 255 on average, without that
    margin by 0.8 to 2.4.
    """
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


def _to_8_bit(image: Image.Image, mode: Literal["L", "RGB"], deep: Deep) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image), deep)).convert(mode)
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):  # multiplied by alpha; Pillow converts in steps
            image = image.convert(image.mode.upper())
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image.convert(mode)


def _eight_bits(values_HW: NDArray[Any], deep: Deep) -> Pixels:
    """Map one channel to 0..255, as `deep` says; a uniform channel is stretched to 0.

    Raises:
        UnreadableImageError: values are not finite; or `range` was asked for, and they are
            not 16-bit values: negative, above 65535, or fractions from 0 to 1.
    """
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
    values_HWC = _read_array(data)
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
            plane_HW = _eight_bits(plane_HW, deep)
        image = Image.fromarray(np.ascontiguousarray(plane_HW))
        planes.append(np.asarray(_resized(image, (width, height), shorter_side)))
    return Decoded(np.stack(planes, axis=-1), width, height, "NPY")


def _read_array(data: bytes) -> NDArray[np.uint8 | np.uint16]:
    """Return a view (H, W, C) of the array in an `.npy` file.

    Not `np.load`: it makes room for what the header promises before it looks at the data.
    """
    file = BytesIO(data)
    try:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
    except Exception as error:  # the header is a Python literal, and fails in many ways
        raise _damaged("NPY", error) from error
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise UnreadableImageError(f"array of {dtype}; uint8 and uint16 are read")
    if len(shape) not in (2, 3) or min(shape) < 0:
        raise UnreadableImageError(f"array of shape {shape}; (H, W) and (H, W, C) are read")
    count = int(np.prod(shape, dtype=object))
    if len(data) - file.tell() < count * dtype.itemsize:
        raise UnreadableImageError("truncated file (NPY)")
    values = np.frombuffer(data, dtype, count, file.tell())
    sides = tuple(map(int, shape))  # a header may say True for 1
    values = values.reshape(sides, order="F" if is_fortran else "C")
    return values if values.ndim == 3 else values[..., np.newaxis]


_quiet_lock = threading.Lock()
_quiet_threads = 0
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings (damaged EXIF blocks and the like) while any thread is inside.

    `warnings.catch_warnings` is not made for threads: each puts back the list of filters it
    found, so that two which overlap can leave a wrong list behind. This adds a single filter
    with the first thread and takes away that one with the last.
    """
    global _quiet_threads  # noqa: PLW0603  the filters of a process are global themselves
    with _quiet_lock:
        if _quiet_threads == 0:
            warnings.filterwarnings("ignore", module=_IGNORE_PILLOW[3].pattern)
        _quiet_threads += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_threads -= 1
            if _quiet_threads == 0 and _IGNORE_PILLOW in warnings.filters:
                warnings.filters.remove(_IGNORE_PILLOW)  # pyright: ignore[reportAttributeAccessIssue]
