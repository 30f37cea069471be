"""Read and write features.zarr: one Zarr v3 array (N, D), whose row i belongs to image_id i.

The array is stored in shards of whole rows, each made of many chunks, so that several writers never
share a file. Every chunk has a CRC-32C, so damage is detected on reading. Background threads write
finished pieces while the next ones are computed, and read blocks ahead of their use.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import chain, cycle
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from deepcluster_core.artifacts.file_names import FEATURES
from deepcluster_core.artifacts.shards import Layout, append_chunks, finish_shard, read_rows
from deepcluster_core.config import FeatureDtype
from deepcluster_core.errors import ArtifactError
from deepcluster_core.shortage import explain_damage

CHUNK_BYTES = 1 << 20
SHARD_BYTES = 64 << 20
READERS = 2
"""Threads that read. More are not faster: checksums take as long as reading, and only one is
computed at a time."""
WRITERS = 3
"""Threads that write: one writes, the others flush shards to the disk. 0.5 GB take 0.30 s with one
thread that flushes, 0.26 s with two, and no less with more."""
CHUNKS_READ = 32
"""Chunks that a thread reads at once."""
CHUNKS_WRITTEN = 16
"""Chunks that a thread writes at once. Two buffers of this size exist during writing."""

Floats = NDArray[np.floating]


def write_features(
    folder: Path,
    batches: Iterator[Floats],
    *,
    num_images: int,
    dtype: FeatureDtype,
    start: int = 0,
    saved: Callable[[int], None] = lambda rows: None,
) -> int:
    """Write batches of rows, in the order of image_id, as `folder/features.zarr`; return D.

    Args:
        folder: folder of the artifact.
        batches: float arrays (n, D) of any n.
        num_images: N, the number of rows of the complete array.
        dtype: number format on disk. Values beyond float16's ±65,504 become infinite, and
            clustering then raises an error.
        start: number of rows that an earlier attempt has written, in whole shards; the batches
            begin with the next row.
        saved: callback that receives the number of durable rows each time a shard is durable.

    Raises:
        ValueError: the batches do not hold exactly the missing rows.
    """
    first = next(batches)
    dim = first.shape[1]
    row_bytes = dim * np.dtype(dtype).itemsize
    chunk_rows = max(1, CHUNK_BYTES // row_bytes)
    chunk_rows = min(chunk_rows, num_images)  # chunks are always stored in full length
    layout = Layout(chunk_rows, SHARD_BYTES // CHUNK_BYTES)
    path = folder / FEATURES
    if start == 0:
        zarr.create_array(
            path,
            shape=(num_images, dim),
            chunks=(layout.chunk_rows, dim),
            shards=(layout.shard_rows, dim),
            dtype=dtype,
            compressors=[Crc32cCodec()],  # features do not compress, so only a checksum is added
            attributes={"rows": "image_id"},
            overwrite=True,  # an earlier attempt may have left damaged rows
        )
    written = start
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="shards") as pool:
        writer = _BackgroundWriter(pool, path, layout, num_images)
        # The greatest common divisor keeps every piece within one shard.
        chunks_in_piece = math.gcd(CHUNKS_WRITTEN, layout.chunks)
        piece_rows = layout.chunk_rows * chunks_in_piece
        # Two buffers: one is filled while the other is written.
        buffer_shape = (min(piece_rows, num_images), dim)
        buffers = [np.empty(buffer_shape, dtype) for _ in range(2)]
        for piece_BD in _regroup(chain([first], batches), buffers):
            writer.write(piece_BD, start=written)
            written += len(piece_BD)
            durable = writer.newly_durable()
            if durable is not None and durable < num_images:
                saved(durable)
        writer.finish()
    if written != num_images:
        raise ValueError(f"received {written} rows for {num_images} images")
    return dim


class _BackgroundWriter:
    """Writes pieces of an array in order, in threads, while the caller computes the next piece.

    A full shard is flushed to the disk while the next one is written.
    """

    def __init__(self, pool: Executor, array: Path, layout: Layout, num_images: int) -> None:
        self._pool = pool
        self._array = array
        self._layout = layout
        self._num_images = num_images
        # The write in progress, and for each shard being flushed the rows durable after it.
        self._writing: Future[None] | None = None
        self._finishing: deque[tuple[int, Future[None]]] = deque()

    def write(self, piece_BD: Floats, *, start: int) -> None:
        """Start to write the rows from `start` on; wait for the previous piece, not for this one.

        The caller may change the buffer of the previous piece after this returns.
        """
        if self._writing is not None:
            self._writing.result()
        self._writing = self._pool.submit(self._write, piece_BD, start)

    def newly_durable(self) -> int | None:
        """Return the number of durable rows if it has grown since the last call, or None."""
        durable = None
        while self._finishing:
            rows, shard = self._finishing[0]
            if not shard.done():
                break
            self._finishing.popleft()
            shard.result()
            durable = rows
        return durable

    def finish(self) -> None:
        """Wait until everything is durable."""
        if self._writing is not None:
            self._writing.result()
        for _, shard in self._finishing:
            shard.result()

    def _write(self, piece_BD: Floats, start: int) -> None:
        layout = self._layout
        end = start + len(piece_BD)
        shard_number, row_in_shard = divmod(start, layout.shard_rows)
        path = _shard(self._array, shard_number)
        first_chunk = row_in_shard // layout.chunk_rows
        append_chunks(path, piece_BD, layout, first=first_chunk)
        rows_in_shard = row_in_shard + len(piece_BD)
        is_full = rows_in_shard == layout.shard_rows
        if is_full or end == self._num_images:
            chunks = math.ceil(rows_in_shard / layout.chunk_rows)
            row_bytes = piece_BD.nbytes // len(piece_BD)
            # In another thread, so that the next piece need not wait for the disk.
            finished = self._pool.submit(
                finish_shard, path, layout, chunks=chunks, row_bytes=row_bytes
            )
            self._finishing.append((end, finished))


def _shard(array: Path, number: int) -> Path:
    """Return the file of a shard: its number along the rows, then 0 for the only column."""
    return array / "c" / str(number) / "0"


def durable_rows(folder: Path, rows: int) -> int:
    """Return how many rows of an unfinished array are intact: `rows`, or 0 if any is damaged.

    Args:
        folder: folder of the artifact.
        rows: number of rows that were durable, in whole shards.
    """
    try:
        # Blocks of one shard, because the shards behind these rows may be missing.
        for _ in Features(folder).blocks(1, rows=range(rows)):
            pass
    except ArtifactError:
        return 0
    return rows


def _regroup(batches: Iterable[Floats], buffers: Sequence[Floats]) -> Iterator[Floats]:
    """Yield rows in groups of a buffer's length, the last one smaller; use the buffers in turn."""
    turns = cycle(buffers)
    buffer = next(turns)
    filled = 0
    for batch in batches:
        start = 0
        while start < len(batch):
            rows_left = len(batch) - start
            space_left = len(buffer) - filled
            count = min(rows_left, space_left)
            free = buffer[filled : filled + count]
            with np.errstate(over="ignore"):  # too large for float16: becomes infinite
                free[:] = batch[start : start + count]
            start += count
            filled += count
            if filled == len(buffer):
                yield buffer
                buffer = next(turns)
                filled = 0
    if filled:
        yield buffer[:filled]


class Features:
    """A features artifact, read in blocks of bounded size."""

    def __init__(self, folder: Path) -> None:
        """Open `folder/features.zarr` without reading its rows.

        Raises:
            ArtifactError: the array does not exist or cannot be opened.
        """
        self.path = folder / FEATURES
        with self._damage_explained("cannot be opened as a Zarr array", KeyError):
            array = zarr.open_array(self.path, mode="r")
            if array.shards is None:
                raise ValueError("it has no shards")
        self.num_images, self.dim = array.shape
        self._dtype = array.dtype
        chunk_rows = array.chunks[0]
        shard_rows = array.shards[0]
        self._layout = Layout(chunk_rows, shard_rows // chunk_rows)

    @property
    def shard_rows(self) -> int:
        """Number of rows in a shard; the last shard may have fewer."""
        return self._layout.shard_rows

    def blocks(
        self,
        block_bytes: int = 64 << 20,
        *,
        rows: range | None = None,
        block_rows: int | None = None,
    ) -> Iterator[Floats]:
        """Yield consecutive rows (n, D).

        The next block is read while the caller uses one, so up to three blocks are in memory.

        Args:
            block_bytes: approximate size of a block; a block then has the rows of whole shards.
            rows: the consecutive rows to read, from any row to any row; None for all.
            block_rows: number of rows in a block, counted from the first of `rows`; the last block
                may have fewer. None: as many as `block_bytes` allows.

        Raises:
            ArtifactError: rows are damaged.
        """
        if rows is None:
            rows = range(self.num_images)
        if block_rows is None:
            shard_rows = self._layout.shard_rows
            shard_bytes = shard_rows * self.dim * self._dtype.itemsize
            block_rows = shard_rows * max(1, block_bytes // shard_bytes)
        with ThreadPoolExecutor(READERS, thread_name_prefix="shards") as pool:
            next_block = self._begin(pool, rows[:block_rows])
            for first in range(0, len(rows), block_rows):
                block_BD, parts = next_block
                self._wait(parts, rows[first])
                # Begin the next block before the caller works on this one.
                rows_after = rows[first + block_rows :]
                next_block = self._begin(pool, rows_after[:block_rows])
                yield block_BD

    def _begin(self, pool: ThreadPoolExecutor, rows: range) -> tuple[Floats, list[Future[None]]]:
        """Start to read rows; return their array and the tasks that fill it."""
        layout = self._layout
        block_BD = np.empty((len(rows), self.dim), self._dtype)
        parts: list[Future[None]] = []
        # A shard is read in parts, so that several threads share it. No part crosses two shards.
        part_rows = layout.chunk_rows * min(CHUNKS_READ, layout.chunks)
        row = rows.start
        while row < rows.stop:
            shard_number, row_in_shard = divmod(row, layout.shard_rows)
            part_end = (row_in_shard // part_rows + 1) * part_rows
            num_rows = min(part_end, layout.shard_rows) - row_in_shard
            part_BD = block_BD[row - rows.start :][:num_rows]
            path = _shard(self.path, shard_number)
            parts.append(pool.submit(read_rows, path, part_BD, layout, start=row_in_shard))
            row += num_rows
        return block_BD, parts

    def _wait(self, parts: list[Future[None]], start: int) -> None:
        with self._damage_explained(f"rows from {start} on are damaged"):
            for part in parts:
                part.result()

    def _damage_explained(
        self, problem: str, *kinds: type[Exception]
    ) -> AbstractContextManager[None]:
        def explain(error: Exception) -> ArtifactError:
            return ArtifactError(
                f"{self.path}: {problem} ({error}).\n"
                f"  Fix: run the extract stage again: deepcluster stage extract … --force"
            )

        return explain_damage(explain, OSError, ValueError, *kinds)
