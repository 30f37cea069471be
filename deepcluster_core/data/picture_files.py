"""Open picture files: choose Pillow's plugin by the content, and read the header."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, TypeVar

from PIL import Image, ImageFile

from deepcluster_core.data.bare_pictures import without_notes
from deepcluster_core.data.extras import needed
from deepcluster_core.data.signatures import (
    HEIC_HELP,
    HEIC_KINDS,
    explained,
    iso_media_kind,
    missing_in_pillow,
)
from deepcluster_core.data.tiff_pages import (
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
from deepcluster_core.data.unsupported import is_lookalike, unsupported_feature, why_not_raw

T = TypeVar("T")
Opener = Callable[..., ImageFile.ImageFile]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of the accepted formats, tried in this order.

Left out are formats without a signature, which accept arbitrary bytes (TGA), and formats that start
other programs (EPS).
"""

_AVIF_START = b"\0\0\0\x20ftypavif\0\0\0\0"
"""The start of an AVIF file, for Pillow's plugin to say whether it was built with a decoder."""

_BLANKS = b"\xef\xbb\xbf \t\r\n"
"""Bytes that editors and web servers put in front of files: byte order mark, blanks, line breaks.

No accepted format begins with any of them.
"""


@dataclass(frozen=True)
class OpenedPicture:
    """An image whose header has been read."""

    image: ImageFile.ImageFile
    """Pillow's image; its pixels have not been decoded yet."""
    data: bytes
    """The bytes that Pillow reads: the file, possibly with corrected tags."""
    page: Page | None
    """Original tags of a TIFF file; None for other formats."""


def with_or_without_notes(data: bytes, use: Callable[[OpenedPicture], T]) -> T:
    """Open and use an image; if that fails, try again without text, profiles and the like.

    Files that a codec can read are not changed. For damaged files the second attempt costs as much
    as the first.
    """
    try:
        return use(open_picture(data))
    # Damaged notes can cause either error.
    except (DamagedImageError, UnsupportedFeatureError):
        start = data.lstrip(_BLANKS)
        bare = without_notes(start)
        if bare == start:
            raise
    return use(open_picture(bare))


@cache
def _plugins() -> list[tuple[str, Opener, Callable[..., Any]]]:
    """Return name, opener and signature check of the formats that this Pillow was built with."""
    Image.init()
    plugins: list[tuple[str, Opener, Callable[..., Any]]] = []
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        opener, accepts = Image.OPEN[name]
        if accepts is not None:
            plugins.append((name, opener, accepts))
    return plugins


def open_picture(data: bytes) -> OpenedPicture:
    """Read the header; `Image.open` is not used because it hides the size of large images."""
    kind = iso_media_kind(data)
    if kind in HEIC_KINDS:
        return _open_as("HEIF", _heif_opener(kind), data)
    # Blanks are removed only from a file that is not recognised with them.
    for start in (data, data.lstrip(_BLANKS)):
        plugin = _find_plugin(start)
        if plugin is not None:
            name, opener = plugin
            return _open_as(name, opener, start)
    raise UnsupportedImageError(explained(data))


def _heif_opener(kind: str) -> Opener:
    """Return the plugin for HEIC, which Pillow does not have itself."""
    needed("pillow_heif", kind, f", or {HEIC_HELP}")
    from pillow_heif import HeifImageFile  # noqa: PLC0415  of an extra

    return HeifImageFile


def _find_plugin(data: bytes) -> tuple[str, Opener] | None:
    """Return name and opener of the first format whose signature is at the start of `data`."""
    is_avif = iso_media_kind(data) == "AVIF"
    start = data[:16].ljust(16, b"\0")  # Pillow's checks do not expect fewer bytes
    for name, opener, accepts in _plugins():
        if name == "AVIF":
            # Pillow also accepts some HEIC files, and not all AVIF ones.
            accepted = is_avif and accepts(_AVIF_START)
        else:
            accepted = accepts(start)
        # A text is Pillow's message that it was built without the format.
        if isinstance(accepted, str):
            raise UnsupportedImageError(missing_in_pillow(name))
        if accepted and not is_lookalike(name, data):
            return name, opener
    return None


def _open_as(name: str, opener: Opener, data: bytes) -> OpenedPicture:
    page = read_page(data) if name == "TIFF" else None
    if page is not None:
        raw_format = raw_of_camera(page)
        if raw_format is not None:
            raise UnsupportedImageError(why_not_raw(raw_format))
        data = as_pillow_reads_it(data, page)
    try:
        image = opener(BytesIO(data), "")
    except MemoryError:
        raise
    except Exception as error:
        raise codec_error(name, data, error, is_header=True) from error
    if page is not None:
        correct_tiles(image, page)
    return OpenedPicture(image, data, page)


def codec_error(
    name: str, data: bytes, error: Exception, *, is_header: bool
) -> UnreadableImageError:
    """Return an error that distinguishes damaged files from features that the codec lacks.

    Args:
        name: Pillow's name of the format.
        data: the file.
        error: the error that the codec raised.
        is_header: whether it was raised at the header rather than at the pixels.
    """
    text = str(error)
    # Pillow detects unknown layouts of pixels only when it loads them.
    is_header = is_header or "unknown raw mode" in text
    feature = unsupported_feature(name, data, is_header=is_header)
    if feature is not None:
        return UnsupportedFeatureError(feature)
    is_truncated = "truncated" in text.lower() or isinstance(error, EOFError)
    if is_truncated:
        return DamagedImageError(f"truncated file ({name})")
    return DamagedImageError(f"damaged or truncated {name} file: {text[:200]}")
