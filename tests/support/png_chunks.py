"""Parts of PNG files, and PNG files of 16 bits. Suffixes: H height, W width, C channels."""

import zlib

import numpy as np
from numpy.typing import NDArray


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk: length, kind, data and checksum."""
    length = len(data).to_bytes(4, "big")
    checksum = zlib.crc32(kind + data).to_bytes(4, "big")
    return length + kind + data + checksum


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Insert chunks after the header."""
    header, rest = png[:33], png[33:]
    return header + b"".join(chunks) + rest


def png_of_16_bits(values_HWC: NDArray[np.uint16]) -> bytes:
    """Return a PNG of grey or colour, perhaps with alpha, which Pillow does not write."""
    height, width, channels = values_HWC.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = (
        width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, colour_type, 0, 0, 0])
    )
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
