"""Parts of PNG files."""

import zlib


def chunk(kind: bytes, data: bytes) -> bytes:
    named = kind + data
    return len(data).to_bytes(4, "big") + named + zlib.crc32(named).to_bytes(4, "big")


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Put chunks behind the header."""
    return png[:33] + b"".join(chunks) + png[33:]
