"""Parts of PNG files."""

import zlib


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk: length, kind, data and checksum."""
    length = len(data).to_bytes(4, "big")
    checksum = zlib.crc32(kind + data).to_bytes(4, "big")
    return length + kind + data + checksum


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Insert chunks after the header."""
    header, rest = png[:33], png[33:]
    return header + b"".join(chunks) + rest
