"""Pages of TIFF stacks and frames of DICOM files."""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal

from deepcluster_core.data.dicom import is_dicom, num_frames
from deepcluster_core.data.extras import needed
from deepcluster_core.data.tiff_pages import (
    MAX_ENTRIES,
    SUBFILE_TYPE,
    Page,
    layout_of,
    number_at,
    read_page,
)
from deepcluster_core.data.unreadable import DamagedImageError

Pages = Literal["first", "all", "max", "channels"]

MAX_PAGES = 65_535
"""Limit on the pages that are followed in a file."""
_NO_PAGE = 1 | 4
"""Bits of SUBFILE_TYPE for a page of reduced resolution and for a mask."""


def num_pages(data: bytes) -> int:
    """Return the number of pictures in a file; 1 for all formats but TIFF and DICOM."""
    if layout_of(data) is not None:
        return max(1, len(_directories(data)))
    if is_dicom(data):
        return num_frames(data)
    return 1


def page_of(data: bytes, number: int) -> bytes:
    """Return a file with a single page as its first one, or a single frame.

    Args:
        data: a TIFF or DICOM file.
        number: number of the page, from 0.

    Raises:
        UnreadableImageError: the file has no such page.
    """
    if is_dicom(data):
        return _frame_of(data, number)
    return _as_first(data, _directories(data), number)


def pages_of(data: bytes) -> Iterator[bytes]:
    """Yield the pages of a TIFF file, each as `page_of` returns it."""
    directories = _directories(data)
    for number in range(len(directories)):
        yield _as_first(data, directories, number)


def tags_of_pages(data: bytes) -> list[Page]:
    """Return the tags of each page of a TIFF file; none for files of other formats.

    Raises:
        UnreadableImageError: the file ends inside of its tags.
    """
    tags = [read_page(data, at) for at in _directories(data)]
    whole = [page for page in tags if page is not None]
    if len(whole) < len(tags):
        raise DamagedImageError("damaged or truncated TIFF file")
    return whole


def _as_first(data: bytes, directories: list[int], number: int) -> bytes:
    found = layout_of(data)
    if found is None or number >= len(directories):
        raise DamagedImageError(f"has no page {number}")
    order, layout = found
    offset = struct.pack(order + layout.offset, directories[number])
    end = layout.first_offset_at + len(offset)
    return data[: layout.first_offset_at] + offset + data[end:]


def _directories(data: bytes) -> list[int]:
    """Return the offsets of the pages of a TIFF file, without thumbnails and masks."""
    found = layout_of(data)
    if found is None:
        return []
    order, layout = found
    count_size = struct.calcsize(layout.num_entries)
    offset_size = struct.calcsize(layout.offset)
    offsets: dict[int, None] = {}  # a set that keeps its order
    place = layout.first_offset_at
    while len(offsets) < MAX_PAGES and place + offset_size <= len(data):
        at = number_at(data, place, order + layout.offset)
        # A damaged file may lead outside of it or in a circle.
        if at == 0 or at in offsets or at + count_size > len(data):
            break
        offsets[at] = None
        num_entries = min(MAX_ENTRIES, number_at(data, at, order + layout.num_entries))
        place = at + count_size + num_entries * layout.entry_size
    if len(offsets) == 1:
        return list(offsets)
    return [at for at in offsets if _is_picture(data, at + count_size, order)]


def _is_picture(data: bytes, entry_at: int, order: str) -> bool:
    """Return whether a page is neither a smaller copy of another one nor a mask.

    Tags are sorted by number, so that the one that tells is the first if the page has it.
    """
    is_classic = number_at(data, 2, order + "H") == 42
    value_at = entry_at + (8 if is_classic else 12)
    if value_at + 4 > len(data) or number_at(data, entry_at, order + "H") != SUBFILE_TYPE:
        return True
    is_short = number_at(data, entry_at + 2, order + "H") == 3
    value = number_at(data, value_at, order + ("H" if is_short else "I"))
    return value & _NO_PAGE == 0


def _frame_of(data: bytes, number: int) -> bytes:
    """Return a DICOM file with one of its frames."""
    pydicom = needed("pydicom", "DICOM")
    try:
        return _rewritten(pydicom.dcmread(BytesIO(data)), number)
    except MemoryError:
        raise
    except Exception as error:  # the package raises nearly any exception for damaged files
        raise DamagedImageError(
            f"damaged or truncated DICOM file ({type(error).__name__})"
        ) from None


def _rewritten(dataset: Any, number: int) -> bytes:  # noqa: ANN401  pydicom's Dataset
    from pydicom.encaps import encapsulate, get_frame  # noqa: PLC0415  of an extra

    count = int(dataset.NumberOfFrames)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        frame = get_frame(dataset.PixelData, number, number_of_frames=count)
        dataset.PixelData = encapsulate([frame])
    else:
        size = len(dataset.PixelData) // count
        frame = dataset.PixelData[number * size : (number + 1) * size]
        dataset.PixelData = frame + b"\0" * (len(frame) % 2)
    dataset.NumberOfFrames = 1
    file = BytesIO()
    dataset.save_as(file)
    return file.getvalue()
