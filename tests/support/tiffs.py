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
    """Write one strip, or one for each sample.

    Args:
        values_HWC: as they are to be stored.
        order: < or >, of the bytes of a value.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK.
        deflate: compress, so that libtiff reads the file and not Pillow alone.
        planar: samples one after the other.
        packed: the bytes of the strip, where samples are not whole bytes; say so in `tags`.
        tags: more of them, or others.
    """
    height, width, samples = values_HWC.shape
    stored = values_HWC.astype(values_HWC.dtype.newbyteorder(order))
    planes = [stored[..., c] for c in range(samples)] if planar else [stored]
    strips = [np.ascontiguousarray(plane).tobytes() for plane in planes]
    strips = [packed] if packed is not None else strips
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    pixels = b"".join(strips)
    starts = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
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
    at = 8 + len(pixels)
    beyond, table = at + 2 + 12 * len(entries) + 4, b""
    blobs = b""
    for tag, (kind, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{_LETTERS[kind]}", *values)
        if len(data) > 4:
            place = struct.pack(order + "I", beyond + len(blobs))
            blobs += data + b"\0" * (len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, kind, len(values)) + place
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", at)
    return start + pixels + struct.pack(order + "H", len(entries)) + table + bytes(4) + blobs


def packed_12_bit(values_HW: NDArray[np.uint16]) -> bytes:
    """Pack two values into three bytes; rows are of even length."""
    first, second = values_HW[:, 0::2].astype(int), values_HW[:, 1::2].astype(int)
    bytes_HWC = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
    return bytes_HWC.astype(np.uint8).tobytes()
