"""Read and write the shards of a Zarr array (N, D) directly. Suffixes: B rows, C chunks.

A shard is a file of chunks of whole rows, each followed by its CRC-32C, and an index with the
offset and length of each chunk, also followed by a CRC-32C. These are the codecs `sharding_indexed`
and `crc32c` of the Zarr v3 specification.

zarr-python reads and writes this format too, but copies the data several times. Measured on two
cores with 0.5 GB in the page cache: reading 0.9 GB/s with zarr-python, 5.5 GB/s here, 4.3 GB/s for
a raw file with NumPy; writing 0.3 GB/s, 1.0 GB/s and 1.1 GB/s.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.checksum import crc32c
from deepcluster_core.shortage import is_shortage

Floats = NDArray[np.floating]

ABSENT = 2**64 - 1
"""Offset and length of a chunk that is not stored because it is all zeros, the fill value."""
CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class Layout:
    """How the rows of an array are divided into chunks and shards."""

    chunk_rows: int
    """Rows in a chunk."""
    chunks: int
    """Chunks in a shard."""

    @property
    def shard_rows(self) -> int:
        """Rows in a shard; the last shard of an array may have fewer."""
        return self.chunk_rows * self.chunks


def append_chunks(path: Path, rows_BD: Floats, layout: Layout, *, first: int) -> None:
    """Append the chunks of a shard from number `first` on.

    Args:
        path: file of the shard; the first chunk creates it and its folder.
        rows_BD: rows of whole chunks. The last chunk of the array may be shorter; it is padded with
            zeros.
        layout: layout of the array.
        first: number of the first of these chunks within the shard.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The first chunk replaces a shard that an earlier attempt may have left.
    mode = "ab" if first else "wb"
    with path.open(mode) as file:
        for chunk_BD in _cut(rows_BD, layout.chunk_rows):
            stored_BD = _filled_up(chunk_BD, layout.chunk_rows)
            checksum = crc32c(stored_BD)
            file.write(stored_BD.data)
            file.write(CHECKSUM.pack(checksum))


def finish_shard(path: Path, layout: Layout, *, chunks: int, row_bytes: int) -> None:
    """Write the index of a shard of `chunks` chunks; the shard is durable on return."""
    with path.open("ab") as file:
        file.write(_index_of(layout, chunks=chunks, row_bytes=row_bytes))
        file.flush()
        os.fsync(file.fileno())


def is_whole(path: Path, layout: Layout, *, chunks: int, row_bytes: int) -> bool:
    """Return whether a file is a finished shard of `chunks` chunks, all of them intact.

    A shard is unfinished if its writer was killed before it wrote the index. Every checksum is
    checked, because after a power cut the disk may have the index but not all chunks.

    Raises:
        OSError: memory or open files ran out; the file may be intact.
    """
    index = _index_of(layout, chunks=chunks, row_bytes=row_bytes)
    chunk_bytes = layout.chunk_rows * row_bytes + CHECKSUM.size
    chunk = np.empty(chunk_bytes, np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            end = chunks * chunk_bytes
            if os.pread(descriptor, len(index) + 1, end) != index:  # and not a byte more
                return False
            for offset in range(0, end, chunk_bytes):
                if os.preadv(descriptor, [chunk.data], offset) != chunk_bytes:
                    return False
                checksum = crc32c(chunk[: -CHECKSUM.size])
                if CHECKSUM.pack(checksum) != chunk[-CHECKSUM.size :].tobytes():
                    return False
    except OSError as error:
        if is_shortage(error):
            raise
        return False
    return True


def _index_of(layout: Layout, *, chunks: int, row_bytes: int) -> bytes:
    """Return the index of a shard of `chunks` chunks, with its checksum."""
    length = layout.chunk_rows * row_bytes + CHECKSUM.size
    index_C2 = np.full((layout.chunks, 2), ABSENT, "<u8")
    offsets_C = np.arange(chunks) * length
    index_C2[:chunks, 0] = offsets_C
    index_C2[:chunks, 1] = length
    checksum = crc32c(index_C2)
    return index_C2.tobytes() + CHECKSUM.pack(checksum)


def read_rows(path: Path, rows_BD: Floats, layout: Layout, *, start: int) -> None:
    """Fill `rows_BD` with the rows of a shard from row `start` on.

    Raises:
        OSError: the shard is missing or cannot be read.
        ValueError: the shard is truncated, or a checksum differs.
    """
    first_chunk, rows_before = divmod(start, layout.chunk_rows)
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        places = _read_index(descriptor, layout)[first_chunk:]
        if rows_before:
            # Rows that begin within a chunk. Its checksum is that of the whole chunk.
            chunk_BD = np.empty((layout.chunk_rows, rows_BD.shape[1]), rows_BD.dtype)
            _read_chunk(descriptor, chunk_BD, places.pop(0))
            wanted_BD = chunk_BD[rows_before : rows_before + len(rows_BD)]
            rows_BD[: len(wanted_BD)] = wanted_BD
            rows_BD = rows_BD[len(wanted_BD) :]
        chunks = _cut(rows_BD, layout.chunk_rows)
        # The index also has entries for chunks behind these rows.
        for chunk_BD, place in zip(chunks, places, strict=False):
            _read_chunk(descriptor, chunk_BD, place)


def _read_index(file: int, layout: Layout) -> list[tuple[int, int]]:
    # The index is at the end of the shard: two 64-bit numbers for each chunk, and a checksum.
    index_bytes = layout.chunks * 16 + CHECKSUM.size
    file_bytes = os.fstat(file).st_size
    start = max(0, file_bytes - index_bytes)
    stored = os.pread(file, index_bytes, start)
    places = stored[: -CHECKSUM.size]
    checksum = stored[-CHECKSUM.size :]
    is_intact = CHECKSUM.pack(crc32c(places)) == checksum
    if len(stored) != index_bytes or not is_intact:
        raise ValueError("the index of the shard is damaged")
    index_C2 = np.frombuffer(places, "<u8").reshape(-1, 2)
    return [(offset, length) for offset, length in index_C2.tolist()]


def _read_chunk(file: int, chunk_BD: Floats, place: tuple[int, int]) -> None:
    """Read the first rows of a chunk; the rows or the padding after them are only checked."""
    offset, length = place
    if offset == length == ABSENT:
        chunk_BD[:] = 0
        return
    padding_bytes = length - chunk_BD.nbytes - CHECKSUM.size
    padding = bytearray(max(0, padding_bytes))
    checksum = bytearray(CHECKSUM.size)
    # One call reads straight into the caller's array, without a copy.
    rows = chunk_BD.data.cast("B")
    num_read = os.preadv(file, [rows, padding, checksum], offset)
    if num_read != length:
        raise ValueError(f"the shard ends within the chunk at byte {offset}")
    checksum_of_rows = crc32c(chunk_BD)
    found = crc32c(bytes(padding), checksum_of_rows)
    (stored_checksum,) = CHECKSUM.unpack(checksum)
    if found != stored_checksum:
        raise ValueError(f"the checksum of the chunk at byte {offset} differs")


def _cut(rows_BD: Floats, size: int) -> Iterator[Floats]:
    for start in range(0, len(rows_BD), size):
        yield rows_BD[start : start + size]


def _filled_up(rows_BD: Floats, num_rows: int) -> Floats:
    """Return the rows, padded with zeros to `num_rows`."""
    if len(rows_BD) == num_rows:
        return rows_BD
    dim = rows_BD.shape[1]
    filled_BD = np.zeros((num_rows, dim), rows_BD.dtype)
    filled_BD[: len(rows_BD)] = rows_BD
    return filled_BD
