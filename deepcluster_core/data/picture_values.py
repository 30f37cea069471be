"""Read the values of pictures that are not simply 8 bits, whichever package decodes them."""

from collections.abc import Iterable, Iterator

import numpy as np

from deepcluster_core.data.channel_pages import are_combined, joined
from deepcluster_core.data.channel_values import ChannelValues, highest
from deepcluster_core.data.deep_pictures import deep_values, is_deep_picture
from deepcluster_core.data.dicom import has_deep_values, is_dicom, num_frames, read_frames
from deepcluster_core.data.npy_arrays import MAGIC as NPY_MAGIC
from deepcluster_core.data.npy_arrays import read_array
from deepcluster_core.data.pages import Pages, pages_of
from deepcluster_core.data.picture_files import OpenedPicture, codec_error, with_or_without_notes
from deepcluster_core.data.picture_size import check_size
from deepcluster_core.data.tiff_bands import read_bands
from deepcluster_core.data.tiff_pages import layout_of, read_page
from deepcluster_core.data.unreadable import UnreadableImageError, UnsupportedFeatureError


def is_tiff(data: bytes) -> bool:
    """Return whether a file has the header of a TIFF file."""
    return layout_of(data) is not None


def is_deep_file(data: bytes) -> bool:
    """Return whether a file has more than 8 bits a channel, from its header; False if damaged."""
    if is_dicom(data):
        return has_deep_values(data)
    try:
        if data.startswith(NPY_MAGIC):
            return read_array(data).dtype != np.uint8
        page = read_page(data)
        if page is not None:
            return page.bits > 8
        return with_or_without_notes(data, is_deep_picture)
    except (UnreadableImageError, MemoryError):
        return False


def channel_values(data: bytes, channels: int, pages: Pages | None = None) -> ChannelValues | None:
    """Return the values of a picture; None if it has 8 bits and Pillow decodes it.

    Args:
        data: the file.
        channels: the wanted number of channels; see `read_bands`.
        pages: `max` for the maximum projection, `channels` for all pages as the channels of one
            picture; otherwise the first page.

    Raises:
        UnreadableImageError: the picture cannot be decoded.
    """
    if are_combined(data, channels, pages):
        return combined_values(data, channels, pages)
    if data.startswith(NPY_MAGIC):
        values_HWC = read_array(data)
        check_size(values_HWC.shape[1], values_HWC.shape[0])
        return ChannelValues(values_HWC, None, "NPY")
    if is_dicom(data):
        return next(read_frames(data, [0]))
    if is_tiff(data) and channels not in (1, 3):
        return read_bands(data, channels)
    try:
        return with_or_without_notes(data, values_of_opened)
    except UnsupportedFeatureError:
        if not is_tiff(data):
            raise
    return read_bands(data, channels)


def values_of_opened(opened: OpenedPicture) -> ChannelValues | None:
    """Return the values of a picture that Pillow has opened; None if it has 8 bits.

    Raises:
        UnreadableImageError: the picture is damaged, too large or too narrow.
    """
    if not is_deep_picture(opened):
        return None
    check_size(*opened.image.size)
    try:
        return deep_values(opened)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise nearly any exception for damaged files
        name = opened.image.format or "picture"
        raise codec_error(name, opened.data, error, is_header=False) from error


def combined_values(data: bytes, channels: int, how: Pages | None) -> ChannelValues | None:
    """Return all pages as one picture; None if they have 8 bits and Pillow decodes them.

    Args:
        data: a TIFF or DICOM file for which `are_combined` holds.
        channels: the wanted number of channels.
        how: `max` or `channels`, see `channel_values`.

    Raises:
        UnreadableImageError: a page cannot be decoded, or they do not fit together.
    """
    if is_dicom(data):
        return combined(read_frames(data, range(num_frames(data))), channels, how)
    page_channels = channels_of_page(channels, how)
    pages = (channel_values(page, page_channels) for page in pages_of(data))
    first = next(pages)
    if first is None:
        return None

    def deep_pages() -> Iterator[ChannelValues]:
        yield first
        for values in pages:
            if values is None:
                raise UnreadableImageError("its pages differ in type: use dataset.pages: first")
            yield values

    return combined(deep_pages(), channels, how)


def combined(pictures: Iterable[ChannelValues], channels: int, how: Pages | None) -> ChannelValues:
    """Return decoded pages as one picture: their channels, or their maximum projection.

    Raises:
        UnreadableImageError: they do not fit together.
    """
    return joined(pictures, channels) if how == "channels" else highest(pictures)


def channels_of_page(channels: int, how: Pages | None) -> int:
    """Return how many channels a page of an image with `channels` has."""
    return 1 if how == "channels" else channels
