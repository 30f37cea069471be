"""Read the tags of a page of a TIFF file, and correct what Pillow misreads.

Pillow does not invert values of more than 8 bits, confuses the byte order of some compressed files,
and reads half of each value in files with separate planes of 16 bits. The tags show which case
applies; they are read here without Pillow.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from PIL import ImageFile

# Tags
SUBFILE_TYPE = 254
WIDTH = 256
HEIGHT = 257
BITS = 258
COMPRESSION = 259
PHOTOMETRIC = 262
MAKE = 271
STRIP_OFFSETS = 273
ORIENTATION = 274
SAMPLES = 277
STRIP_BYTES = 279
PLANAR = 284
TILE_OFFSETS = 324
TILE_BYTES = 325
SUB_IFDS = 330
EXTRA_SAMPLES = 338
SAMPLE_FORMAT = 339
DNG_VERSION = 50706

# Values of PHOTOMETRIC
WHITE_IS_ZERO = 0
BLACK_IS_ZERO = 1
COLOUR_FILTER = 32803
LINEAR_RAW = 34892

# Values of SAMPLE_FORMAT
UNSIGNED = 1
SIGNED = 2
FLOAT = 3
UNDEFINED = 4

MAX_ENTRIES = 65_535
"""Limit on the entries of a tag directory; BigTIFF could declare more, and each costs time."""

_KINDS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
"""The integer types of tags -> their letters for `struct`."""

_NEEDED = frozenset(
    (
        SUBFILE_TYPE,
        WIDTH,
        HEIGHT,
        BITS,
        COMPRESSION,
        PHOTOMETRIC,
        266,  # fill order
        STRIP_OFFSETS,
        ORIENTATION,
        SAMPLES,
        278,  # rows of a strip
        STRIP_BYTES,
        PLANAR,
        *(292, 293),  # options of fax compressions
        317,  # predictor
        320,  # palette
        *(322, 323),  # width and height of a tile
        TILE_OFFSETS,
        TILE_BYTES,
        *(332, 334),  # inks
        EXTRA_SAMPLES,
        SAMPLE_FORMAT,
        347,  # JPEG tables
        *range(512, 522),  # old-style JPEG
        *(529, 530, 531, 532),  # YCbCr
    )
)
"""Tags that define how pixels are stored: layout, predictor, palette, JPEG tables, YCbCr."""

_NATIVE_ORDER = {
    "I;16S": "I;16NS",
    "I;16BS": "I;16NS",
    "I;32S": "I;32NS",
    "I;32BS": "I;32NS",
    "F;32F": "F;32NF",
    "F;32BF": "F;32NF",
}
"""Pillow's raw modes -> those in native byte order, to which libtiff converts compressed files."""

_RAW_OF_MAKER = {"NIKON": "Nikon NEF", "SONY": "Sony ARW", "PENTAX": "Pentax PEF"}
"""Makers of cameras, in capitals -> names of their raw formats."""


class Layout(NamedTuple):
    """Places and sizes in a TIFF file, which differ in a BigTIFF."""

    first_offset_at: int
    """Where the file stores the offset of its first directory."""
    offset: str
    """Type of offsets and of the number of values, as in `struct`."""
    num_entries: str
    """Type of the number of entries in a directory."""
    entry_size: int


_CLASSIC = Layout(4, "I", "H", 12)
_BIG = Layout(8, "Q", "Q", 20)


@dataclass(frozen=True)
class _Entry:
    """An entry of the tag directory: a tag without its values."""

    at: int
    """Offset of the entry itself."""
    kind: int
    """Type of the values, see `_KINDS`."""
    count: int
    """Number of values."""
    values_at: int
    """Offset of the values."""


@dataclass(frozen=True)
class Page:
    """Tags of a page."""

    data: bytes
    order: str
    """Byte order as in `struct`: < or >."""
    is_big: bool
    """Whether it is a BigTIFF, with offsets of 64 bits."""
    at: int
    """Offset of the directory."""
    entries: dict[int, _Entry]
    is_complete: bool
    """False if the file ends inside the directory."""

    def values(self, tag: int, default: tuple[int, ...] = (), *, most: int = 64) -> tuple[int, ...]:
        """Return up to `most` integers of a tag, or the default if they cannot be read."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _KINDS:
            return default
        letter = _KINDS[entry.kind]
        count = min(entry.count, most)
        end = entry.values_at + count * struct.calcsize(letter)
        if count == 0 or end > len(self.data):
            return default
        types = f"{self.order}{count}{letter}"
        return struct.unpack_from(types, self.data, entry.values_at)

    def value(self, tag: int, default: int) -> int:
        """Return the first integer of a tag, or the default."""
        return self.values(tag, (default,))[0]

    @property
    def samples(self) -> int:
        """The number of samples of a pixel: its channels and any extra samples."""
        return self.value(SAMPLES, 1)

    @property
    def bits(self) -> int:
        """The number of bits of a sample."""
        return self.value(BITS, 1)

    @property
    def sample_format(self) -> int:
        """UNSIGNED, SIGNED, FLOAT, or a number that Pillow does not support."""
        found = self.value(SAMPLE_FORMAT, UNSIGNED)
        if found == UNDEFINED:
            return UNSIGNED
        return found

    @property
    def is_deep_grey(self) -> bool:
        """Whether there is one channel of more than 8 bits, which Pillow does not convert."""
        photometric = self.value(PHOTOMETRIC, BLACK_IS_ZERO)
        is_grey = photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
        return is_grey and self.samples == 1 and self.bits > 8

    @property
    def is_white_zero(self) -> bool:
        """Whether 0 is white. Without the tag 0 is black, as in libtiff."""
        return self.value(PHOTOMETRIC, BLACK_IS_ZERO) == WHITE_IS_ZERO


def layout_of(data: bytes) -> tuple[str, Layout] | None:
    """Return byte order and layout; None if `data` is not a TIFF file or ends in its header."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return None
    version = number_at(data, 2, order + "H")
    layout = {42: _CLASSIC, 43: _BIG}.get(version)
    if layout is None:
        return None
    header_end = layout.first_offset_at + struct.calcsize(layout.offset)
    return None if len(data) < header_end else (order, layout)


def read_page(data: bytes, at: int | None = None) -> Page | None:
    """Return a page; None if `data` is not a TIFF file or ends before its directory.

    Args:
        data: the file.
        at: offset of the directory of a page; None for the first one.
    """
    found = layout_of(data)
    if found is None:
        return None
    order, layout = found
    if at is None:
        at = number_at(data, layout.first_offset_at, order + layout.offset)
    first_entry = at + struct.calcsize(layout.num_entries)
    if first_entry > len(data):
        return None
    num_declared = number_at(data, at, order + layout.num_entries)
    # Read no more entries than the file really has.
    size = layout.entry_size
    num_complete = (len(data) - first_entry) // size
    num_read = min(num_declared, num_complete, MAX_ENTRIES)
    entries: dict[int, _Entry] = {}
    for place in range(first_entry, first_entry + size * num_read, size):
        tag, entry = _entry(data, place, order, layout)
        entries.setdefault(tag, entry)
    is_complete = num_declared <= num_complete
    return Page(data, order, layout is _BIG, at, entries, is_complete)


def number_at(data: bytes, at: int, kind: str) -> int:
    """Return the number at an offset; `kind` is its byte order and type, as in `struct`."""
    number: int = struct.unpack_from(kind, data, at)[0]
    return number


def _entry(data: bytes, at: int, order: str, layout: Layout) -> tuple[int, _Entry]:
    """Return the tag and the rest of the entry at an offset."""
    tag = number_at(data, at, order + "H")
    kind = number_at(data, at + 2, order + "H")
    count = number_at(data, at + 4, order + layout.offset)
    # Few values are stored in the entry itself, more of them at an offset that it gives.
    inline = struct.calcsize(layout.offset)
    values_at = at + 4 + inline
    fits = kind in _KINDS and count * struct.calcsize(_KINDS[kind]) <= inline
    if not fits:
        values_at = number_at(data, values_at, order + layout.offset)
    return tag, _Entry(at, kind, count, values_at)


def without_other_tags(data: bytes) -> bytes:
    """Return the file with only those tags of its first page that define how pixels are stored.

    The shorter directory overwrites the old one, so that all offsets stay valid.
    """
    page = read_page(data)
    if page is None:
        return data
    layout = _BIG if page.is_big else _CLASSIC
    kept = [entry for tag, entry in page.entries.items() if _is_needed(tag, entry)]
    directory = struct.pack(page.order + layout.num_entries, len(kept))
    for entry in kept:
        directory += data[entry.at : entry.at + layout.entry_size]
    directory += struct.pack(page.order + layout.offset, 0)  # no next page
    directory_end = page.at + len(directory)
    return data[: page.at] + directory + data[directory_end:]


def _is_needed(tag: int, entry: _Entry) -> bool:
    # Codecs reject an orientation of any other type or count.
    if tag == ORIENTATION:
        return entry.kind in (3, 4) and entry.count == 1
    return tag in _NEEDED


def as_pillow_reads_it(data: bytes, page: Page) -> bytes:
    """Return the file with tags changed so that Pillow reads each value as it is stored.

    - Grey of more than 8 bits is declared black-is-zero; `with_true_values` inverts it afterwards.
    - 32-bit integers are declared signed; `with_true_values` restores them.
    - A single channel is declared interleaved, since separate planes mean nothing for it.
    - Sample format "undefined" is read as unsigned integers, as the specification advises.
    """
    changes: dict[int, int] = {}  # from tags to their new values
    if page.is_deep_grey:
        if page.is_white_zero:
            changes[PHOTOMETRIC] = BLACK_IS_ZERO
        if page.bits == 32 and page.sample_format == UNSIGNED:
            changes[SAMPLE_FORMAT] = SIGNED
    if page.samples == 1 and page.value(PLANAR, 1) == 2:
        changes[PLANAR] = 1
    is_undefined = set(page.values(SAMPLE_FORMAT)) == {UNDEFINED}
    if is_undefined and SAMPLE_FORMAT not in changes:
        changes[SAMPLE_FORMAT] = UNSIGNED
    if not changes:
        return data
    return _changed(data, page, changes)


def _changed(data: bytes, page: Page, changes: dict[int, int]) -> bytes:
    """Return the file with all values of some tags replaced by one value each."""
    changed = bytearray(data)
    for tag, value in changes.items():
        entry = page.entries.get(tag)
        if entry is None or entry.kind not in (3, 4):
            continue
        letter = _KINDS[entry.kind]
        size = struct.calcsize(letter)
        for number in range(min(entry.count, 64)):
            place = entry.values_at + number * size
            if place + size <= len(changed):
                struct.pack_into(page.order + letter, changed, place, value)
    return bytes(changed)


def correct_tiles(image: ImageFile.ImageFile, page: Page) -> None:
    """Set the correct byte order in Pillow's tiles, before the pixels are loaded."""
    has_planes = page.value(PLANAR, 1) == 2 and page.samples > 1
    is_16_bit_planar = has_planes and page.bits == 16
    suffix = ";16L" if page.order == "<" else ";16B"
    tiles: list[ImageFile._Tile] = []  # pyright: ignore[reportPrivateUsage]
    for tile in image.tile:
        arguments = tile.args
        if isinstance(arguments, tuple) and arguments:
            mode, *rest = arguments
            if tile.codec_name == "libtiff":
                # libtiff has already converted the values to native order.
                mode = _NATIVE_ORDER.get(str(mode), mode)
            elif is_16_bit_planar and len(str(mode)) == 1:
                # For a single plane Pillow names a mode of 8 bits, such as R.
                mode = f"{mode}{suffix}"
            arguments = (mode, *rest)
        tiles.append(tile._replace(args=arguments))
    image.tile = tiles


def is_truncated(page: Page) -> bool:
    """Return whether the file ends before its pixels do."""
    if not page.is_complete:
        return True
    file_size = len(page.data)
    most = 1 << 20
    for offset_tag, size_tag in ((STRIP_OFFSETS, STRIP_BYTES), (TILE_OFFSETS, TILE_BYTES)):
        offsets = page.values(offset_tag, most=most)
        sizes = page.values(size_tag, most=most)
        for offset, size in zip(offsets, sizes, strict=False):
            if offset + size > file_size:
                return True
    return False


def raw_of_camera(page: Page) -> str | None:
    """Return the name of a camera's raw format; None for other TIFF files.

    The first page of a raw file is often a small preview, which Pillow would read as the image.
    """
    # Canon's mark follows the header of a small TIFF.
    has_canon_mark = page.data[8:10] == b"CR"
    if has_canon_mark and page.order == "<" and not page.is_big:
        return "Canon CR2"
    is_reduced = page.value(SUBFILE_TYPE, 0) & 1 == 1
    is_preview = is_reduced and SUB_IFDS in page.entries
    is_raw = page.value(PHOTOMETRIC, BLACK_IS_ZERO) in (COLOUR_FILTER, LINEAR_RAW)
    if not is_preview and not is_raw:
        return None
    if DNG_VERSION in page.entries:
        return "DNG"
    make = _text(page, MAKE).upper()
    for maker, name in _RAW_OF_MAKER.items():
        if maker in make:
            return name
    return "TIFF-based"


def _text(page: Page, tag: int) -> str:
    """Return up to 64 characters of a tag that holds a text."""
    entry = page.entries.get(tag)
    if entry is None:
        return ""
    at = entry.values_at if entry.count > 4 else entry.at + 8
    length = min(entry.count, 64)
    return page.data[at : at + length].decode("latin-1")
