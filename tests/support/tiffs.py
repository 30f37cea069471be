"""TIFF files of kinds that Pillow does not write. Suffixes: H height, W width, C samples."""

import struct
import zlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["<", ">"]
Tag = tuple[int, int, list[int]]
"""Number, type (1 byte, 3 short, 4 long) and values."""

# The types of tags as letters of `struct`.
_LETTERS = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B"}


def tiff_of(
    values_HWC: NDArray[Any],
    *,
    order: Order = "<",
    photometric: int = 1,
    deflate: bool = False,
    planar: bool = False,
    packed: bytes | None = None,
    tags: Iterable[Tag] = (),
) -> bytes:
    """Return a file with one strip, or with one for each sample.

    Args:
        values_HWC: values to store.
        order: order of the bytes of a value, < or >.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK.
        deflate: whether to compress, so that Pillow needs libtiff to read the file.
        planar: whether to store the samples one after the other.
        packed: bytes of the strip, if samples are not whole bytes; `tags` must describe them.
        tags: additional tags; they replace tags with the same numbers.
    """
    height, width, samples = values_HWC.shape
    stored = values_HWC.astype(values_HWC.dtype.newbyteorder(order))
    planes = [stored]
    if planar:
        planes = [stored[..., c] for c in range(samples)]
    strips = [np.ascontiguousarray(plane).tobytes() for plane in planes]
    if packed is not None:
        strips = [packed]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    pixels = b"".join(strips)

    # The pixels follow a header of 8 bytes; the table of tags comes last.
    starts: list[int] = []
    start = 8
    for strip in strips:
        starts.append(start)
        start += len(strip)
    kind = {"u": 1, "i": 2, "f": 3}[stored.dtype.kind]
    entries: dict[int, tuple[int, list[int]]] = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [8 * stored.dtype.itemsize] * samples),
        259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        273: (4, starts),
        277: (3, [samples]),
        278: (3, [height]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [2 if planar else 1]),
        339: (3, [kind] * samples),
    }
    entries |= {tag: (type_, values) for tag, type_, values in tags}
    return _file(order, pixels + b"\0" * (len(pixels) % 2), entries)


def _file(order: str, pixels: bytes, entries: dict[int, tuple[int, list[int]]]) -> bytes:
    """Return header, pixels, table of tags, and the values that do not fit into the table."""
    table_start = 8 + len(pixels)
    # The table has a count, 12 bytes for each tag, and the place of a next table: none.
    blobs_start = table_start + 2 + 12 * len(entries) + 4
    table = blobs = b""
    for tag, (kind, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{_LETTERS[kind]}", *values)
        if len(data) > 4:  # the table holds only where the values are
            place = struct.pack(order + "I", blobs_start + len(blobs))
            blobs += data + b"\0" * (len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, kind, len(values)) + place
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    header = mark + struct.pack(order + "I", table_start)
    count = struct.pack(order + "H", len(entries))
    return header + pixels + count + table + bytes(4) + blobs


def packed_12_bit(values_HW: NDArray[np.uint16]) -> bytes:
    """Pack two values into three bytes; rows must have an even length."""
    first = values_HW[:, 0::2].astype(int)
    second = values_HW[:, 1::2].astype(int)
    # The byte in the middle holds the last 4 bits of the first value and the first 4 of the second.
    middle = (first & 15) << 4 | second >> 8
    bytes_HWC = np.stack([first >> 4, middle, second & 255], axis=-1)
    return bytes_HWC.astype(np.uint8).tobytes()
