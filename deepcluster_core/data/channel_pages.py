"""Pages that are the channels of one image, for `dataset.pages: channels`.

Suffixes: H height, W width, C channels.
"""

from collections.abc import Iterable

import numpy as np

from deepcluster_core.data.channel_values import ChannelValues, check_value_bytes
from deepcluster_core.data.dicom import is_dicom
from deepcluster_core.data.pages import Pages, num_pages, tags_of_pages
from deepcluster_core.data.tiff_pages import (
    BLACK_IS_ZERO,
    FLOAT,
    HEIGHT,
    ORIENTATION,
    PHOTOMETRIC,
    SIGNED,
    WHITE_IS_ZERO,
    WIDTH,
    Page,
)
from deepcluster_core.data.unreadable import UnreadableImageError


def are_combined(data: bytes, channels: int, pages: Pages | None) -> bool:
    """Return whether several pages of a file become one image.

    Args:
        data: the file.
        channels: the wanted number of channels.
        pages: `dataset.pages`.

    Raises:
        UnreadableImageError: the pages cannot be joined as that many channels; or they are not to
            be joined, but only together have that many.
    """
    if pages == "channels":
        tags = tags_of_pages(data)
        if tags:
            _check_joinable(tags, channels)
        return len(tags) > 1 or is_dicom(data)
    if pages is None and channels not in (1, 3):
        _check_one_is_enough(data, channels)
    return pages == "max" and num_pages(data) > 1


def joined(pictures: Iterable[ChannelValues], channels: int) -> ChannelValues:
    """Return the pages of a file as one picture of as many channels, in the order of the pages.

    Args:
        pictures: the pages, each of one channel; or a single one of all channels.
        channels: the wanted number of channels.

    Raises:
        UnreadableImageError: the pages differ in size or type or have several channels, or their
            number is not the wanted one.
    """
    pages = iter(pictures)
    first = next(pages)
    height, width, found = first.values_HWC.shape
    if found == channels:
        return first
    dtype = first.values_HWC.dtype
    check_value_bytes(height * width * channels, dtype.itemsize)
    values_HWC = np.empty((height, width, channels), dtype)
    number = 0
    for number, page in enumerate((first, *pages), start=1):
        if page.values_HWC.shape[2] != 1:
            raise UnreadableImageError(_too_many_channels(number, page.values_HWC.shape[2]))
        same_type = page.values_HWC.dtype == dtype and page.declared == first.declared
        if page.values_HWC.shape != (height, width, 1) or not same_type:
            raise UnreadableImageError(
                f"page {number} differs in size or type from the first one, so that they are not "
                f"channels of one image"
            )
        if number <= channels:
            values_HWC[..., number - 1] = page.values_HWC[..., 0]
    _check_number(number, channels, first.format)
    return ChannelValues(values_HWC, None, first.format, first.declared)


def _check_joinable(tags: list[Page], channels: int) -> None:
    """Raise UnreadableImageError unless the pages of a TIFF file are the wanted channels."""
    first = tags[0]
    is_grey = first.samples == 1 and first.value(PHOTOMETRIC, BLACK_IS_ZERO) <= BLACK_IS_ZERO
    if len(tags) == 1 and not is_grey:
        return  # a picture in colour or of many bands, which the decoder checks
    for number, page in enumerate(tags, start=1):
        if page.samples != 1:
            raise UnreadableImageError(_too_many_channels(number, page.samples))
        if page.value(PHOTOMETRIC, BLACK_IS_ZERO) not in (WHITE_IS_ZERO, BLACK_IS_ZERO):
            raise UnreadableImageError(
                f"page {number} is not grey but coloured, for example by a palette, so that it is "
                f"not a channel of one image: save it in grey"
            )
        if _kind(page) != _kind(first):
            raise UnreadableImageError(
                f"page {number} has {_kind(page)}, but the first one {_kind(first)}, so that they "
                f"are not channels of one image"
            )
    _check_number(len(tags), channels, "TIFF")


def _check_one_is_enough(data: bytes, channels: int) -> None:
    """Raise UnreadableImageError if only all pages together have the wanted channels."""
    tags = tags_of_pages(data)
    if len(tags) == channels and all(page.samples == 1 for page in tags):
        raise UnreadableImageError(
            f"TIFF of {channels} pages of 1 channel: dataset.pages: channels joins them"
        )


def _check_number(found: int, wanted: int, format: str) -> None:
    """Raise UnreadableImageError unless there are as many pages as wanted channels."""
    if found == wanted:
        return
    number = "1 page" if found == 1 else f"{found} pages"
    raise UnreadableImageError(
        f"{format} of {number}, not {wanted}: dataset.channels: {found} reads it"
    )


def _too_many_channels(number: int, found: int) -> str:
    return (
        f"page {number} has {found} channels, but dataset.pages: channels joins pages of one "
        f"channel each"
    )


def _kind(page: Page) -> str:
    """Return in words what the pages of one image have in common."""
    text = f"{page.value(WIDTH, 0)} x {page.value(HEIGHT, 0)} pixels of {page.bits} bits"
    text += {SIGNED: " with a sign", FLOAT: " in floating point"}.get(page.sample_format, "")
    orientation = page.value(ORIENTATION, 1)
    return text if orientation == 1 else f"{text} in orientation {orientation}"
