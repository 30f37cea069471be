"""Recognise intact images of a supported format that use a feature the codec lacks.

Used after a codec has failed: each function reads the header alone and returns the name of the
feature, or None if the file is more likely damaged.
"""

import re
from functools import cache
from io import BytesIO

from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO

from deepcluster_core.data.bare_pictures import jpeg_segments
from deepcluster_core.data.signatures import is_text
from deepcluster_core.data.tiff_pages import (
    BITS,
    COMPRESSION,
    EXTRA_SAMPLES,
    FLOAT,
    HEIGHT,
    PHOTOMETRIC,
    PLANAR,
    SAMPLES,
    SIGNED,
    STRIP_OFFSETS,
    TILE_OFFSETS,
    WIDTH,
    Page,
    is_truncated,
    raw_of_camera,
    read_page,
)

_CONVERT = "convert it to PNG or 8-bit JPEG"

_JPEG_KINDS = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC9: "arithmetic coding",
    0xCA: "arithmetic coding",
    0xCB: "arithmetic coding",
    0xCD: "arithmetic coding",
    0xCE: "arithmetic coding",
    0xCF: "arithmetic coding",
    0xF7: "JPEG-LS",
}
"""Unsupported kinds of JPEG, by the marker of the frame."""

COMPRESSIONS = {
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT",
    32767: "Sony ARW",
    32769: "Epson raw",
    32770: "Samsung raw",
    32908: "Pixar film",
    32909: "Pixar log",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI log",
    34677: "SGI log",
    34712: "JPEG 2000",
    34713: "Nikon NEF",
    34715: "JBIG 2",
    34887: "LERC",
    34892: "lossy DNG",
    34925: "LZMA",
    34926: "Zstandard",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
    65000: "Kodak raw",
    65535: "Pentax raw",
}
"""Compressions of TIFF files that Pillow or its libtiff may not support."""

_ALWAYS_READ = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946})
"""Compressions of TIFF files that every Pillow supports."""

_PNM_START = re.compile(rb"P[1-6f]\s+[\d#]|P0CMYK|PyP|PyRGBA|PyCMYK")
"""Start of PNM files; the last four variants are from old versions of Pillow."""

COLOURS = {
    0: "grey",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIE Lab",
    9: "ICC Lab",
    10: "ITU Lab",
    32844: "LogL",
    32845: "LogLuv",
}
"""Colour spaces by the photometric interpretation of TIFF files."""

_BMP_COMPRESSIONS = {4: "JPEG inside", 5: "PNG inside", 11: "CMYK", 12: "CMYK", 13: "CMYK"}


def unsupported_feature(name: str, data: bytes, *, is_header: bool) -> str | None:
    """Return a message that names the unsupported feature and what to do, or None.

    Args:
        name: Pillow's name of the format.
        data: the file.
        is_header: whether the codec failed at the header rather than at the pixels.
    """
    if name in ("JPEG", "MPO"):
        return _of_jpeg(data)
    if name == "TIFF":
        return _of_tiff(data, is_header=is_header)
    if name == "BMP":
        return _of_bmp(data)
    if name == "JPEG2000":
        return _of_jpeg_2000(data)
    if name == "PNG" and data[12:16] == b"CgBI":
        return f"PNG in Apple's own variant (CgBI) is not supported: {_CONVERT}"
    return None


def _of_jpeg(data: bytes) -> str | None:
    for marker, at, end in jpeg_segments(data):
        if not _is_jpeg_frame(marker) or end - at < 10:
            continue
        bits = data[at + 4]
        height = data[at + 5 : at + 7]
        channels = data[at + 9]
        if marker in _JPEG_KINDS:
            feature = f"JPEG ({_JPEG_KINDS[marker]})"
        elif bits in (12, 16):
            feature = f"JPEG of {bits} bits"
        elif channels in (2, 5, 6, 7, 8):
            feature = f"JPEG of {channels} channels"
        elif not any(height):
            feature = "JPEG that gives its height after its pixels (DNL)"
        else:
            return None
        return f"{feature} is not supported: {_CONVERT}"
    return None


def _is_jpeg_frame(marker: int) -> bool:
    """Return whether a segment is the header of a frame, which describes the pixels."""
    # Three markers of this range do not begin frames; 0xF7 is the frame of JPEG-LS.
    is_other = marker in (0xC4, 0xC8, 0xCC)
    is_frame = 0xC0 <= marker <= 0xCF and not is_other
    return is_frame or marker == 0xF7


def _of_bmp(data: bytes) -> str | None:
    header_size = int.from_bytes(data[14:18], "little")
    bits = int.from_bytes(data[28:30], "little")
    compression = int.from_bytes(data[30:34], "little")
    if header_size == 16:
        feature = "BMP of OS/2 2.0 with a short header"
    elif header_size not in (40, 52, 56, 64, 108, 124) or len(data) < 54:
        return None
    elif compression in _BMP_COMPRESSIONS:
        feature = f"BMP with {_BMP_COMPRESSIONS[compression]}"
    elif bits in (2, 64):
        feature = f"BMP of {bits} bits a pixel"
    elif compression in (3, 6) and bits in (16, 32):
        feature = "BMP with this layout of colour bits"
    else:
        return None
    return f"{feature} is not supported: convert it to PNG"


def _of_jpeg_2000(data: bytes) -> str | None:
    # The markers of the codestream and of its size segment, which gives the number of channels.
    at = data.find(b"\xff\x4f\xff\x51", 0, 1 << 20)
    if at < 0:
        return None
    channels = int.from_bytes(data[at + 40 : at + 42])
    if 4 < channels < 1 << 14:
        return f"JPEG 2000 of {channels} channels is not supported: save a .npy array (H, W, C)"
    return None


def _of_tiff(data: bytes, *, is_header: bool) -> str | None:
    page = read_page(data)
    # A truncated file may use nothing but supported features.
    if page is None or is_truncated(page):
        return None
    raw_format = raw_of_camera(page)
    if raw_format is not None:
        return why_not_raw(raw_format)
    compression = page.value(COMPRESSION, 1)
    if not _has_codec(compression):
        name = str(compression)
        if compression in COMPRESSIONS:
            name = f"{compression} ({COMPRESSIONS[compression]})"
        return f"TIFF with compression {name} is not supported: {_CONVERT}"
    if compression == 7 and page.bits != 8:
        return f"TIFF with a JPEG of {page.bits} bits is not supported: {_CONVERT}"
    # If the codec failed later, at the pixels, it supports their layout.
    if is_header and _is_plausible(page):
        return _layout(page)
    return None


@cache
def _has_codec(compression: int) -> bool:
    """Return whether this Pillow and its libtiff support a compression of TIFF files."""
    if compression in _ALWAYS_READ:
        return True
    if compression not in COMPRESSION_INFO:
        return False
    # libtiff has no list of its codecs: try to write a small image.
    image = Image.new("RGB", (16, 16))
    try:
        image.save(BytesIO(), "TIFF", compression=COMPRESSION_INFO[compression])
    except Exception:  # Pillow reports libtiff's errors in several classes
        return False
    return True


def why_not_raw(name: str) -> str:
    """Return the message for a camera's raw file."""
    return f"camera raw ({name}) is not supported: convert it to JPEG"


def _is_plausible(page: Page) -> bool:
    """Return whether the numbers in a header are plausible."""
    checks = (
        STRIP_OFFSETS in page.entries or TILE_OFFSETS in page.entries,
        page.value(WIDTH, 0) > 0,
        page.value(HEIGHT, 0) > 0,
        all(0 < bits <= 128 for bits in page.values(BITS, (1,))),
        page.samples > 0,
    )
    return all(checks)


def _layout(page: Page) -> str:
    """Return the message for a layout of samples that Pillow has no mode for."""
    samples, bits = page.samples, page.bits
    # How many channels, and of which type.
    kind = {SIGNED: "-bit signed", FLOAT: "-bit floating-point"}.get(page.sample_format, "-bit")
    if samples == 1:
        channels = f"one {bits}{kind} channel"
    else:
        channels = f"{samples} {bits}{kind} channels"
    # What they mean, and how they are stored.
    colour = page.value(PHOTOMETRIC, -1)
    details = COLOURS.get(colour, f"colour space {colour}")
    num_extra = len(page.values(EXTRA_SAMPLES))
    if num_extra and SAMPLES in page.entries:
        details += f", {num_extra} of them extra"
    has_planes = page.value(PLANAR, 1) == 2
    if has_planes and samples > 1:
        details += ", one after the other"
    return (
        f"TIFF with {channels} ({details}) is not supported: save 8-bit grey or RGB, "
        f"or a .npy array (H, W, C)"
    )


def is_lookalike(name: str, data: bytes) -> bool:
    """Return whether a file only happens to begin with the short signature of a format."""
    if name == "PPM":
        return _PNM_START.match(data) is None
    return name == "BMP" and is_text(data)
