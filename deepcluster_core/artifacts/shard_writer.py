"""Write the shards of a features array in background threads, while the next rows are computed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.shards import append_chunks, finish_shard

if TYPE_CHECKING:
    from deepcluster_core.artifacts.features import Features

Floats = NDArray[np.floating]


class BackgroundWriter:
    """Writes pieces of an array in order, in threads, while the caller computes the next piece.

    A full shard is flushed to the disk while the next one is written.
    """

    def __init__(
        self,
        pool: Executor,
        array: "Features",
        finished: Callable[[Path], object] | None,
    ) -> None:
        self._pool = pool
        self._finished = finished
        self._array = array
        # The write in progress, and the shards being flushed.
        self._writing: Future[None] | None = None
        self._finishing: deque[Future[None]] = deque()

    def write(self, piece_BD: Floats, rows: range) -> None:
        """Start to write rows of one shard; wait for the previous piece, not for this one.

        The caller may change the buffer of the previous piece after this returns.
        """
        if self._writing is not None:
            self._writing.result()
        while self._finishing and self._finishing[0].done():
            self._finishing.popleft().result()  # raises the error of a disk that is full
        self._writing = self._pool.submit(self._write, piece_BD, rows)

    def finish(self) -> None:
        """Wait until everything is durable."""
        if self._writing is not None:
            self._writing.result()
        for shard in self._finishing:
            shard.result()

    def _write(self, piece_BD: Floats, rows: range) -> None:
        array = self._array
        number = rows.start // array.shard_rows
        rows_of_shard = array.rows_of(number)
        path = array.shard(number)
        first_chunk = (rows.start - rows_of_shard.start) // array.layout.chunk_rows
        append_chunks(path, piece_BD, array.layout, first=first_chunk)
        if rows.stop == rows_of_shard.stop:
            # In another thread, so that the next piece need not wait for the disk.
            self._finishing.append(self._pool.submit(self._finish, path, number))

    def _finish(self, path: Path, number: int) -> None:
        array = self._array
        chunks = array.chunks_in(number)
        finish_shard(path, array.layout, chunks=chunks, row_bytes=array.row_bytes)
        if self._finished is not None:
            self._finished(path)


def regroup(
    batches: Iterable[Floats], pieces: Iterable[range], buffers: Sequence[Floats]
) -> Iterator[tuple[range, Floats]]:
    """Yield the rows of each piece; use the buffers in turn.

    Raises:
        ValueError: the batches do not hold exactly the rows of all pieces.
    """
    turns = cycle(buffers)
    remaining = iter(batches)
    batch = buffers[0][:0]
    for rows in pieces:
        piece_BD = next(turns)[: len(rows)]
        filled = 0
        while filled < len(rows):
            if len(batch) == 0:
                batch = next(remaining, None)
                if batch is None:
                    raise ValueError(f"no features for the images from {rows.start + filled} on")
            count = min(len(batch), len(rows) - filled)
            with np.errstate(over="ignore"):  # too large for float16: becomes infinite
                piece_BD[filled : filled + count] = batch[:count]
            batch = batch[count:]
            filled += count
        yield rows, piece_BD
    if len(batch) or any(map(len, remaining)):
        raise ValueError("more features than images")
