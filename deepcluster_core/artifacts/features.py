"""Read and write features.zarr: one Zarr v3 array (N, D), whose row i belongs to image_id i.

If there are features of several views of each image, a row holds them one after another.

The array is stored in shards of whole rows, each made of chunks, so that several writers never
share a file: each rank writes its own shards. Every chunk has a CRC-32C, so damage is detected on
reading. Background threads write finished pieces while the next ones are computed, and read blocks
ahead of their use.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from deepcluster_core.artifacts.file_names import FEATURES
from deepcluster_core.artifacts.mirrored import fetched
from deepcluster_core.artifacts.shard_writer import BackgroundWriter, regroup
from deepcluster_core.artifacts.shards import Layout, is_whole, read_rows
from deepcluster_core.config import FeatureDtype
from deepcluster_core.errors import ArtifactError
from deepcluster_core.limits import num_cores
from deepcluster_core.shortage import explain_damage

CHUNK_BYTES = 1 << 20
SHARD_BYTES = 64 << 20
MOST_SMALL_SHARDS = 64
LEAST_SMALL_SHARDS = 8
"""An array that would fit into a few shards of full size is divided into more and smaller ones, so
that many ranks can share the work: into 64, or fewer if those would hold less than one full chunk
each, but into 8 at least. Each further shard takes more than half a millisecond of processor time
and two flushes of the disk: 64 would take several percent of the time for 2,000 small images."""
READERS = max(2, min(8, num_cores() // 2))
"""Threads that read. Two are as fast as more on two cores, measured. Checksums take as long as
reading, and those of chunks of a whole `CHUNK_BYTES` do not hinder each other."""
WRITERS = 3
"""Threads that write: one writes, the others flush shards to the disk. 0.5 GB take 0.30 s with one
thread that flushes, 0.26 s with two, and no less with more."""
CHUNKS_READ = 32
"""Chunks that a thread reads at once."""
CHUNKS_WRITTEN = 16
"""Chunks that a thread writes at once. Two buffers of this size exist during writing."""

COLUMNS, COMPONENTS = "columns", "whitened principal components"
"""The attribute of an array whose rows are reduced, and its value."""

Floats = NDArray[np.floating]


def create_features(
    folder: Path,
    *,
    num_images: int,
    dim: int,
    dtype: FeatureDtype,
    views: int = 1,
    is_reduced: bool = False,
) -> "Features":
    """Create `folder/features.zarr` without rows. Shards that exist already stay as they are.

    Args:
        folder: folder of the artifact.
        num_images: N, the number of rows.
        dim: D, the number of values of a row.
        dtype: number format on disk. Values beyond float16's ±65,504 become infinite, and
            clustering then raises an error.
        views: number of views of each image, whose features make up a row, one after another.
        is_reduced: whether rows are `Pca.components_of` features, and not the features themselves.
    """
    assert dim % views == 0
    attributes: dict[str, Any] = {"rows": "image_id"}
    if views > 1:  # without it, arrays of one view keep the bytes of earlier versions
        attributes["views"] = views
    if is_reduced:  # likewise
        attributes[COLUMNS] = COMPONENTS
    layout = _layout_of(num_images, dim * np.dtype(dtype).itemsize)
    path = folder / FEATURES
    # zarr-python would delete the shards along with an existing description.
    (path / "zarr.json").unlink(missing_ok=True)
    zarr.create_array(
        path,
        shape=(num_images, dim),
        chunks=(layout.chunk_rows, dim),
        shards=(layout.shard_rows, dim),
        dtype=dtype,
        compressors=[Crc32cCodec()],  # features do not compress, so only a checksum is added
        attributes=attributes,
    )
    return Features(folder)


def _layout_of(num_images: int, row_bytes: int) -> Layout:
    """Return the layout of an array, which depends on its shape and number format alone."""
    full_chunk_rows = max(1, CHUNK_BYTES // row_bytes)
    num_full_chunks = num_images // full_chunk_rows
    num_shards = min(max(LEAST_SMALL_SHARDS, num_full_chunks), MOST_SMALL_SHARDS)
    small_shard_rows = math.ceil(num_images / num_shards)
    chunks = math.ceil(small_shard_rows / full_chunk_rows)
    most_chunks = SHARD_BYTES // CHUNK_BYTES
    if chunks > most_chunks:
        return Layout(full_chunk_rows, most_chunks)
    # Chunks are always stored in full length, so those of small shards are made to fit.
    return Layout(math.ceil(small_shard_rows / chunks), chunks)


def write_features(
    folder: Path,
    batches: Iterator[Floats],
    *,
    num_images: int,
    dtype: FeatureDtype,
    views: int = 1,
) -> int:
    """Write batches of rows, in the order of image_id, as `folder/features.zarr`; return D.

    Args:
        folder: folder of the artifact.
        batches: float arrays (n, D) of any n.
        num_images: N, the number of rows of all batches.
        dtype: number format on disk, see `create_features`.
        views: number of views of each image, see `create_features`.

    Raises:
        ValueError: the batches do not hold exactly N rows.
    """
    first = next(batches)
    dim = first.shape[1]
    array = create_features(folder, num_images=num_images, dim=dim, dtype=dtype, views=views)
    write_shards(array, range(array.num_shards), chain([first], batches))
    return array.dim


def write_shards(
    array: "Features",
    shards: Sequence[int],
    batches: Iterable[Floats],
    *,
    finished: Callable[[Path], object] | None = None,
) -> None:
    """Write some shards of an array; they are durable on return.

    Args:
        array: the array, as `create_features` has made it.
        shards: numbers of the shards, increasing.
        batches: the rows of these shards, one shard after another, as float arrays (n, D) of any n.
        finished: called with the file of each shard that is durable, from another thread.

    Raises:
        ValueError: the batches do not hold exactly the rows of these shards.
    """
    layout = array.layout
    piece_rows = layout.chunk_rows * min(CHUNKS_WRITTEN, layout.chunks)
    pieces = (
        rows[start : start + piece_rows]
        for rows in map(array.rows_of, shards)
        for start in range(0, len(rows), piece_rows)
    )
    # Two buffers: one is filled while the other is written.
    buffer_shape = (min(piece_rows, array.num_images), array.dim)
    buffers = [np.empty(buffer_shape, array.dtype) for _ in range(2)]
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="shards") as pool:
        writer = BackgroundWriter(pool, array, finished)
        for rows, piece_BD in regroup(batches, pieces, buffers):
            writer.write(piece_BD, rows)
        writer.finish()


def _shard(array: Path, number: int) -> Path:
    """Return the file of a shard: its number along the rows, then 0 for the only column."""
    return array / "c" / str(number) / "0"


def _views_of(array: "zarr.Array[Any]") -> int:
    """Return the number of views of an image whose features make up a row."""
    views = array.attrs.get("views", 1)
    if not isinstance(views, int) or views < 1 or array.shape[1] % views:
        raise ValueError(f"a row of {array.shape[1]} values cannot hold {views!r} views")
    return views


class Features:
    """A features artifact, read in blocks of bounded size."""

    def __init__(self, folder: Path) -> None:
        """Open `folder/features.zarr` without reading its rows.

        Raises:
            ArtifactError: the array does not exist or cannot be opened.
        """
        self.path = folder / FEATURES
        with self._damage_explained("cannot be opened as a Zarr array", KeyError):
            fetched(self.path / "zarr.json")
            array = zarr.open_array(self.path, mode="r")
            if array.shards is None:
                raise ValueError("it has no shards")
            self.views = _views_of(array)
            self.is_reduced = array.attrs.get(COLUMNS) == COMPONENTS
        self.num_images, self.dim = array.shape
        self.dtype = array.dtype
        chunk_rows = array.chunks[0]
        shard_rows = array.shards[0]
        self.layout = Layout(chunk_rows, shard_rows // chunk_rows)

    @property
    def view_dim(self) -> int:
        """Number of values of the feature of one view."""
        return self.dim // self.views

    @property
    def shard_rows(self) -> int:
        """Number of rows in a shard; the last shard may have fewer."""
        return self.layout.shard_rows

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return math.ceil(self.num_images / self.shard_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dim * self.dtype.itemsize

    def rows_of(self, number: int) -> range:
        """Return the rows of a shard."""
        start = number * self.shard_rows
        return range(start, min(start + self.shard_rows, self.num_images))

    def chunks_in(self, number: int) -> int:
        """Return the number of chunks of a shard."""
        return math.ceil(len(self.rows_of(number)) / self.layout.chunk_rows)

    def shard(self, number: int) -> Path:
        """Return the file of a shard."""
        return _shard(self.path, number)

    def missing(self, shards: Sequence[int]) -> list[int]:
        """Return those of the shards that are not whole, after a check of all their checksums.

        Raises:
            OSError: memory or open files ran out.
        """

        def check(number: int) -> bool:
            chunks = self.chunks_in(number)
            path = self.shard(number)
            return is_whole(path, self.layout, chunks=chunks, row_bytes=self.row_bytes)

        with ThreadPoolExecutor(READERS, thread_name_prefix="shards") as pool:
            checks = list(pool.map(check, shards))
        return [number for number, whole in zip(shards, checks, strict=True) if not whole]

    def blocks(
        self,
        block_bytes: int = 64 << 20,
        *,
        rows: range | None = None,
        block_rows: int | None = None,
        view: int | None = None,
    ) -> Iterator[Floats]:
        """Yield consecutive rows (n, D).

        The next block is read while the caller uses one, so up to three blocks are in memory.

        Args:
            block_bytes: approximate size of a block; a block then has the rows of whole shards.
            rows: the consecutive rows to read, from any row to any row; None for all.
            block_rows: number of rows in a block, counted from the first of `rows`; the last block
                may have fewer. None: as many as `block_bytes` allows.
            view: the view whose features are returned, 0 to V - 1; None for those of all views.

        Raises:
            ArtifactError: rows are damaged.
        """
        if rows is None:
            rows = range(self.num_images)
        if block_rows is None:
            shard_rows = self.layout.shard_rows
            shard_bytes = shard_rows * self.row_bytes
            block_rows = shard_rows * max(1, block_bytes // shard_bytes)
        with ThreadPoolExecutor(READERS, thread_name_prefix="shards") as pool:
            next_block = self._begin(pool, rows[:block_rows])
            for first in range(0, len(rows), block_rows):
                block_BD, parts = next_block
                self._wait(parts, rows[first])
                # Begin the next block before the caller works on this one.
                rows_after = rows[first + block_rows :]
                next_block = self._begin(pool, rows_after[:block_rows])
                yield block_BD if view is None else self._of_view(block_BD, view)

    def _of_view(self, block_BD: Floats, view: int) -> Floats:
        """Return the features of one view from rows of all views."""
        start = view * self.view_dim
        return np.ascontiguousarray(block_BD[:, start : start + self.view_dim])

    def _begin(self, pool: ThreadPoolExecutor, rows: range) -> tuple[Floats, list[Future[None]]]:
        """Start to read rows; return their array and the tasks that fill it."""
        layout = self.layout
        block_BD = np.empty((len(rows), self.dim), self.dtype)
        parts: list[Future[None]] = []
        # A shard is read in parts, so that several threads share it. No part crosses two shards.
        part_rows = layout.chunk_rows * min(CHUNKS_READ, layout.chunks)
        row = rows.start
        while row < rows.stop:
            shard_number, row_in_shard = divmod(row, layout.shard_rows)
            part_end = (row_in_shard // part_rows + 1) * part_rows
            num_rows = min(part_end, layout.shard_rows) - row_in_shard
            part_BD = block_BD[row - rows.start :][:num_rows]
            parts.append(pool.submit(self._read, shard_number, part_BD, row_in_shard))
            row += num_rows
        return block_BD, parts

    def _read(self, number: int, rows_BD: Floats, start: int) -> None:
        read_rows(fetched(self.shard(number)), rows_BD, self.layout, start=start)

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
