"""Read TIFF files of any number of bands and any type of numbers, with the package tifffile.

Suffixes: H height, W width, C bands, P planes, D depth.
"""

import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.channel_values import (
    ChannelValues,
    check_channels,
    check_value_bytes,
    upright,
)
from deepcluster_core.data.deep_values import inverted
from deepcluster_core.data.extras import needed
from deepcluster_core.data.picture_size import check_size
from deepcluster_core.data.tiff_pages import (
    BLACK_IS_ZERO,
    COMPRESSION,
    EXTRA_SAMPLES,
    HEIGHT,
    ORIENTATION,
    PHOTOMETRIC,
    WHITE_IS_ZERO,
    WIDTH,
    Page,
    is_truncated,
    raw_of_camera,
    read_page,
)
from deepcluster_core.data.unreadable import (
    DamagedImageError,
    UnreadableImageError,
    UnsupportedFeatureError,
)
from deepcluster_core.data.unsupported import COLOURS, COMPRESSIONS, why_not_raw

_RGB = 2  # value of PHOTOMETRIC
_ALPHA = (1, 2)  # values of EXTRA_SAMPLES: premultiplied or not
_DEFLATE = (8, 32946)
_PLAIN = (1, *_DEFLATE, 32773)
"""Compressions that tifffile reads by itself: none, Deflate, PackBits."""
_WITH_CODECS = (5, 7, 33003, 33004, 33005, 34712, 34887, 34926, 50000, 50001)
"""Compressions that it reads with imagecodecs, which stops at the size of the picture."""
_DEFLATE_RATIO = 1032
"""Bytes that a byte of Deflate expands to at most."""
_MOST_EXPANDED = 1 << 30


def read_bands(data: bytes, channels: int) -> ChannelValues:
    """Return the values of the first page.

    Args:
        data: a TIFF file.
        channels: the wanted number of channels. It decides whether an extra sample is one of them
            or alpha, and fails early.

    Raises:
        UnreadableImageError: the file is damaged, has another number of channels or a layout that
            is not supported, or the package is missing.
    """
    page = read_page(data)
    if page is None:
        raise DamagedImageError("damaged or truncated TIFF file")
    _check_page(page, channels)
    tifffile = needed("tifffile", f"TIFF of {_layout(page)}")
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            values_HWC = _values(file.pages.first)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # the package raises nearly any exception for damaged files
        raise _explained(page, error) from error
    if page.value(PHOTOMETRIC, BLACK_IS_ZERO) == WHITE_IS_ZERO:
        values_HWC = inverted(values_HWC, page)
    colours = _num_colours(page, channels)
    alpha_HW = None
    if colours < page.samples:
        alpha_HW = _alpha(values_HWC[..., colours], page)
    declared = None
    if values_HWC.dtype.kind == "u" and page.bits < 8 * values_HWC.dtype.itemsize:
        declared = (0.0, float((1 << page.bits) - 1))
    orientation = page.value(ORIENTATION, 1)
    values_HWC = upright(values_HWC[..., :colours], orientation)
    if alpha_HW is not None:
        alpha_HW = upright(alpha_HW, orientation)
    return ChannelValues(values_HWC, alpha_HW, "TIFF", declared)


def _layout(page: Page) -> str:
    """Return the bands of a file in words: `5 bands of 16 bits`."""
    number = "1 band" if page.samples == 1 else f"{page.samples} bands"
    return f"{number} of {page.bits} bits"


def _compression(page: Page) -> str:
    """Return number and name of a compression: `34887 (LERC)`."""
    compression = page.value(COMPRESSION, 1)
    name = COMPRESSIONS.get(compression, {5: "LZW", 7: "JPEG"}.get(compression))
    return str(compression) if name is None else f"{compression} ({name})"


def _check_page(page: Page, channels: int) -> None:
    """Raise UnreadableImageError for a page that cannot or must not be decoded."""
    raw_format = raw_of_camera(page)
    if raw_format is not None:
        raise UnsupportedFeatureError(why_not_raw(raw_format))
    photometric = page.value(PHOTOMETRIC, BLACK_IS_ZERO)
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, _RGB):
        raise UnsupportedFeatureError(
            f"TIFF of {_layout(page)} with colour space {COLOURS.get(photometric, photometric)} "
            f"is not supported: convert it to RGB"
        )
    check_channels(_num_colours(page, channels), channels, "TIFF")
    compression = page.value(COMPRESSION, 1)
    if compression not in (*_PLAIN, *_WITH_CODECS):
        raise UnsupportedFeatureError(
            f"TIFF with compression {_compression(page)} is not supported: save it with Deflate"
        )
    check_size(page.value(WIDTH, 0), page.value(HEIGHT, 0))
    num_values = page.value(WIDTH, 0) * page.value(HEIGHT, 0) * page.samples
    check_value_bytes(num_values, max(1, page.bits // 8))
    if page.bits < 8:
        raise UnsupportedFeatureError(
            f"TIFF of {_layout(page)} is not supported: save it with 8 bits"
        )
    if is_truncated(page):
        raise DamagedImageError("truncated file (TIFF)")


def _num_colours(page: Page, channels: int) -> int:
    """Return the number of samples that are channels; the one behind them may be alpha."""
    samples = page.samples
    if samples == channels:
        return samples
    extra = page.values(EXTRA_SAMPLES)
    is_rgb = page.value(PHOTOMETRIC, BLACK_IS_ZERO) == _RGB
    # As Pillow does, a fourth sample of RGB is not a channel, whatever it is.
    if is_rgb and samples == 4 and channels in (1, 3):
        return 3
    if samples == 2 and extra[:1] and extra[0] in _ALPHA:
        return 1
    return samples


def _values(page: Any) -> NDArray[Any]:  # noqa: ANN401  tifffile's page
    """Return the values of a page of tifffile (H, W, C)."""
    planes, depth, height, width, samples = page.shaped
    if depth != 1:
        raise UnsupportedFeatureError(
            f"TIFF of a volume with a depth of {depth} is not supported: save its slices as pages"
        )
    if page.dtype is None or page.dtype.kind not in "uif":
        raise UnsupportedFeatureError(
            "TIFF of numbers of this type is not supported: save integers or fractions"
        )
    if int(page.compression) in _DEFLATE:
        _check_expansion(page)
    values = page.asarray(maxworkers=1)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    values_PDHWC = native.reshape(planes, 1, height, width, samples)
    if planes > 1:
        return values_PDHWC[:, 0, ..., 0].transpose(1, 2, 0)
    return values_PDHWC[0, 0]


def _check_expansion(page: Any) -> None:  # noqa: ANN401
    """Raise DamagedImageError if a compressed strip or tile expands to much more than it should.

    tifffile expands whole strips. Only long ones can fill the memory, and only those are tried.
    """
    buffer = page.parent.filehandle
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False):
        if size * _DEFLATE_RATIO <= _MOST_EXPANDED:
            continue
        buffer.seek(offset)
        rest = buffer.read(size)
        expander = zlib.decompressobj()
        expanded = 0
        while rest and not expander.eof:
            expanded += len(expander.decompress(rest, 1 << 20))
            rest = expander.unconsumed_tail
            if expanded > _MOST_EXPANDED:
                raise DamagedImageError("a strip of the TIFF file expands to more than its pixels")


def _explained(page: Page, error: Exception) -> UnreadableImageError:
    """Return the error to raise for one of tifffile."""
    text = str(error)
    if "imagecodecs" in text:
        return UnsupportedFeatureError(
            f"TIFF of {_layout(page)} with compression {_compression(page)} needs the package "
            f"imagecodecs: pip install imagecodecs, or save it with Deflate"
        )
    return DamagedImageError(f"damaged or truncated TIFF file: {text[:200]}")


def _alpha(values_HW: NDArray[Any], page: Page) -> NDArray[np.uint8] | None:
    """Return a sample as alpha; None if it is not alpha, or has no known range."""
    extra = page.values(EXTRA_SAMPLES)
    is_alpha = bool(extra) and extra[0] in _ALPHA
    if not is_alpha or values_HW.dtype.kind != "u":
        return None
    return (values_HW >> (page.bits - 8)).astype(np.uint8)
