"""Read the tags of a TIFF file's first page, and correct what Pillow misreads.

Pillow does not invert values of more than 8 bits, confuses the byte order of some compressed files,
and reads half of each value in files with separate planes of 16 bits. The tags show which case
applies; they are read here without Pillow.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import ImageFile

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_BYTES, PLANAR = 273, 274, 277, 279, 284
TILE_OFFSETS, TILE_BYTES, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT = 324, 325, 330, 338, 339
SUBFILE_TYPE, MAKE, DNG_VERSION = 254, 271, 50706

WHITE_IS_ZERO, BLACK_IS_ZERO, COLOUR_FILTER, LINEAR_RAW = 0, 1, 32803, 34892
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4

MAX_ENTRIES = 65_535
"""Limit on the entries of a tag directory; BigTIFF could declare more, and each costs time."""

_KINDS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
"""The integer types of tags -> their letters for `struct`."""

_NEEDED = frozenset(
    {SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, ORIENTATION}
    | {SAMPLES, STRIP_BYTES, PLANAR, TILE_OFFSETS, TILE_BYTES, EXTRA_SAMPLES, SAMPLE_FORMAT}
    | {266, 278, 292, 293, 317, 320, 322, 323, 332, 334, 347}
    | {*range(512, 522), 529, 530, 531, 532}
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


@dataclass(frozen=True)
class _Entry:
    at: int
    """Offset of the entry itself."""
    kind: int
    count: int
    values_at: int


@dataclass(frozen=True)
class Page:
    """Tags of the first page."""

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
        return struct.unpack_from(f"{self.order}{count}{letter}", self.data, entry.values_at)

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
        return UNSIGNED if found == UNDEFINED else found

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


def read_page(data: bytes) -> Page | None:
    """Return the first page; None if `data` is not a TIFF file or ends before its directory."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return None
    version: int = struct.unpack_from(order + "H", data, 2)[0]
    if version not in (42, 43):
        return None
    is_big = version == 43
    offset, number = (8, "Q") if is_big else (4, "I")
    head, count_format = (8, "Q") if is_big else (2, "H")
    if len(data) < offset + struct.calcsize(number):
        return None
    at: int = struct.unpack_from(order + number, data, offset)[0]
    if at + head > len(data):
        return None
    promised: int = struct.unpack_from(order + count_format, data, at)[0]
    size = 20 if is_big else 12
    there = (len(data) - at - head) // size
    entries: dict[int, _Entry] = {}
    for place in range(at + head, at + head + size * min(promised, there, MAX_ENTRIES), size):
        tag, entry = _entry(data, place, order, is_big=is_big)
        entries.setdefault(tag, entry)
    return Page(data, order, is_big, at, entries, is_complete=promised <= there)


def _entry(data: bytes, at: int, order: str, *, is_big: bool) -> tuple[int, _Entry]:
    letter, inline = ("Q", 8) if is_big else ("I", 4)
    tag, kind, count = struct.unpack_from(f"{order}HH{letter}", data, at)
    values_at = at + 4 + inline
    if kind not in _KINDS or count * struct.calcsize(_KINDS[kind]) > inline:
        values_at = struct.unpack_from(order + letter, data, values_at)[0]
    return tag, _Entry(at, kind, count, values_at)


def without_other_tags(data: bytes) -> bytes:
    """Return the file with only those tags of its first page that define how pixels are stored.

    The shorter directory overwrites the old one, so that all offsets stay valid.
    """
    page = read_page(data)
    if page is None:
        return data
    kept = [entry for tag, entry in page.entries.items() if _is_needed(tag, entry)]
    size, letter = (20, "Q") if page.is_big else (12, "I")
    directory = struct.pack(page.order + ("Q" if page.is_big else "H"), len(kept))
    directory += b"".join(data[entry.at : entry.at + size] for entry in kept)
    directory += struct.pack(page.order + letter, 0)  # no next page
    return data[: page.at] + directory + data[page.at + len(directory) :]


def _is_needed(tag: int, entry: _Entry) -> bool:
    if tag == ORIENTATION:  # codecs reject an orientation of any other type or count
        return entry.kind in (3, 4) and entry.count == 1
    return tag in _NEEDED


def as_pillow_reads_it(data: bytes, page: Page) -> bytes:
    """Return the file with tags changed so that Pillow reads each value as it is stored.

    - Grey of more than 8 bits is declared black-is-zero; `with_true_values` inverts it afterwards.
    - 32-bit integers are declared signed; `with_true_values` restores them.
    - A single channel is declared interleaved, since separate planes mean nothing for it.
    - Sample format "undefined" is read as unsigned integers, as the specification advises.
    """
    changes: dict[int, int] = {}
    if page.is_deep_grey:
        if page.is_white_zero:
            changes[PHOTOMETRIC] = BLACK_IS_ZERO
        if page.bits == 32 and page.sample_format == UNSIGNED:
            changes[SAMPLE_FORMAT] = SIGNED
    if page.samples == 1 and page.value(PLANAR, 1) == 2:
        changes[PLANAR] = 1
    formats = page.values(SAMPLE_FORMAT)
    if formats and SAMPLE_FORMAT not in changes and set(formats) == {UNDEFINED}:
        changes[SAMPLE_FORMAT] = UNSIGNED
    return _changed(data, page, changes) if changes else data


def _changed(data: bytes, page: Page, changes: dict[int, int]) -> bytes:
    changed = bytearray(data)
    for tag, value in changes.items():
        entry = page.entries.get(tag)
        if entry is None or entry.kind not in (3, 4):
            continue
        letter = _KINDS[entry.kind]
        for number in range(min(entry.count, 64)):
            place = entry.values_at + number * struct.calcsize(letter)
            if place + struct.calcsize(letter) <= len(changed):
                struct.pack_into(page.order + letter, changed, place, value)
    return bytes(changed)


def correct_tiles(image: ImageFile.ImageFile, page: Page) -> None:
    """Set the correct byte order in Pillow's tiles, before the pixels are loaded."""
    is_16_bit_planar = page.value(PLANAR, 1) == 2 and page.samples > 1 and page.bits == 16
    suffix = ";16L" if page.order == "<" else ";16B"
    tiles: list[ImageFile._Tile] = []  # pyright: ignore[reportPrivateUsage]
    for tile in image.tile:
        arguments = tile.args
        if isinstance(arguments, tuple) and arguments:
            mode, *rest = arguments
            if tile.codec_name == "libtiff":
                mode = _NATIVE_ORDER.get(str(mode), mode)
            elif is_16_bit_planar and len(str(mode)) == 1:
                mode = f"{mode}{suffix}"
            arguments = (mode, *rest)
        tiles.append(tile._replace(args=arguments))
    image.tile = tiles


def is_truncated(page: Page) -> bool:
    """Return whether the file ends before its pixels do."""
    if not page.is_complete:
        return True
    for offsets, sizes in ((STRIP_OFFSETS, STRIP_BYTES), (TILE_OFFSETS, TILE_BYTES)):
        ends = _ends(page, offsets, sizes)
        if any(end > len(page.data) for end in ends):
            return True
    return False


def _ends(page: Page, offsets: int, sizes: int) -> Iterable[int]:
    most = 1 << 20
    starts = page.values(offsets, most=most)
    return map(sum, zip(starts, page.values(sizes, most=most), strict=False))


def raw_of_camera(page: Page) -> str | None:
    """Return the name of a camera's raw format; None for other TIFF files.

    The first page of a raw file is often a small preview, which Pillow would read as the image.
    """
    if page.data[8:10] == b"CR" and page.order == "<" and not page.is_big:
        return "Canon CR2"
    is_preview = page.value(SUBFILE_TYPE, 0) & 1 == 1 and SUB_IFDS in page.entries
    is_raw = page.value(PHOTOMETRIC, BLACK_IS_ZERO) in (COLOUR_FILTER, LINEAR_RAW)
    if not is_preview and not is_raw:
        return None
    if DNG_VERSION in page.entries:
        return "DNG"
    make = _text(page, MAKE).upper()
    makers = {"NIKON": "Nikon NEF", "SONY": "Sony ARW", "PENTAX": "Pentax PEF"}
    return next((name for maker, name in makers.items() if maker in make), "TIFF-based")


def _text(page: Page, tag: int) -> str:
    entry = page.entries.get(tag)
    if entry is None:
        return ""
    at = entry.values_at if entry.count > 4 else entry.at + 8
    return page.data[at : at + min(entry.count, 64)].decode("latin-1")
