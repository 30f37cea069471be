"""The sides of `benchmarks.storage`. Suffixes: N rows or images, H W C pixels, D dims, B block."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.artifacts.file_names import FEATURES
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.images_writer import ImagesWriter, PackedImage
from deepcluster_core.context import Context
from deepcluster_core.memory import keep_freed_memory
from stages.index import index

Figures = dict[str, float]
Batch = NDArray[np.float16]
RAW = "raw"
BATCH_ROWS = 256
BLOCK_BYTES = 64 << 20
NUM_PASSES = 5
"""Passes over the images, since a single one over a thousand small images takes milliseconds."""
NUM_HELD = 8
"""Number of batches of features that are written in turns."""


def write_images(folder: str, count: int, side: int, channels: int) -> None:
    """Write an images artifact of noise, packed raw, and its pixels as a plain file."""
    generator = np.random.default_rng(0)
    facts = {
        "encoding": "raw",
        "channels": channels,
        "shorter_side": side,
        "deep": "range",
        "originals": "None",
    }
    out = Path(folder) / "images"
    context = Context(seed=0)
    with (
        new_artifact(index.identity, out, config={}, inputs={}, context=context) as draft,
        (Path(folder) / RAW).open("wb") as raw,
    ):
        # Noise: raw pixels take equal time whatever they show.
        with ImagesWriter(out, packs=True) as writer:
            for number in range(count):
                pixels = generator.bytes(side * side * channels)
                raw.write(pixels)
                path = f"{number:06d}.png"
                writer.add(PackedImage(path, None, side, side, "PNG", side, side, pixels))
        draft.rows, draft.facts = count, facts


def memory_map(folder: str, count: int, side: int, channels: int) -> Figures:
    """Copy all images out of a memory map of the plain file, in a random order."""
    shape = (count, side, side, channels)
    pixels_NHWC = np.memmap(Path(folder) / RAW, np.uint8, mode="r", shape=shape)
    return _copied(pixels_NHWC, count)


def packed(folder: str, count: int, side: int, channels: int) -> Figures:
    """Copy all images out of the artifact, in the order of the memory map's benchmark."""
    return _copied(Images(Path(folder) / "images"), count)


def _copied(images: Images | NDArray[np.uint8], count: int) -> Figures:
    """Time copies of all images in an order that is random, but equal for both sides."""
    order_N = np.random.default_rng(1).permutation(count).tolist()
    # The first pass is not timed: it brings everything into the page cache.
    copied_bytes = sum(np.array(images[i]).nbytes for i in order_N)
    start = time.perf_counter()
    for _ in range(NUM_PASSES):
        for image_id in order_N:
            np.array(images[image_id])
    seconds = time.perf_counter() - start
    gigabytes = NUM_PASSES * copied_bytes / 1e9
    return {"seconds": seconds, "gb_per_s": gigabytes / seconds}


def write_rows(folder: str, rows: int, dim: int) -> None:
    """Write features, and their rows as a plain file."""
    held = _held_batches(dim)
    _write_raw(Path(folder), held, rows)
    _write_zarr(Path(folder), held, rows)


def raw_written(folder: str, rows: int, dim: int) -> Figures:
    """Write rows to a plain file, and flush it to the disk."""
    held = _held_batches(dim)
    return _time_second(lambda out: _write_raw(out, held, rows), folder, rows * dim)


def zarr_written(folder: str, rows: int, dim: int) -> Figures:
    """Write equal rows as the extract stage does, and flush them to the disk."""
    held = _held_batches(dim)
    return _time_second(lambda out: _write_zarr(out, held, rows), folder, rows * dim)


def raw_read(folder: str, rows: int, dim: int) -> Figures:
    """Read the plain file block by block into new arrays."""
    block_values = BLOCK_BYTES // np.dtype(np.float16).itemsize

    def read(_: Path) -> None:
        with (Path(folder) / RAW).open("rb") as file:
            while len(np.fromfile(file, np.float16, block_values)):
                pass

    return _time_second(read, folder, rows * dim)


def zarr_read(folder: str, rows: int, dim: int) -> Figures:
    """Read the features block by block as the cluster stage does."""

    def read(_: Path) -> None:
        for _block_BD in Features(Path(folder)).blocks(BLOCK_BYTES):
            pass

    return _time_second(read, folder, rows * dim)


def _time_second(work: Callable[[Path], None], folder: str, values: int) -> Figures:
    """Do the work twice, and time the second call.

    The second call uses memory that the process already has, as the stages of a run do. The first
    call may wait for memory from the system and take several times as long.

    Args:
        work: called with a new folder each time.
        folder: folder in which the new folders are created.
        values: number of float16 values that `work` reads or writes.
    """
    keep_freed_memory()
    seconds = 0.0
    for _ in range(2):
        with TemporaryDirectory(dir=folder) as out:
            start = time.perf_counter()
            work(Path(out))
            seconds = time.perf_counter() - start
    gigabytes = 2 * values / 1e9
    return {"seconds": seconds, "gb_per_s": gigabytes / seconds}


def _write_raw(out: Path, held: Sequence[Batch], rows: int) -> None:
    with (out / RAW).open("wb") as file:
        for batch_BD in _batches(held, rows):
            file.write(batch_BD.data)
        # The time ends when the data are on the disk.
        file.flush()
        os.fsync(file.fileno())


def _write_zarr(out: Path, held: Sequence[Batch], rows: int) -> None:
    write_features(out, _batches(held, rows), num_images=rows, dtype="float16")
    # Folders are flushed too: their entries must be durable.
    for path in (out, out / FEATURES, *(out / FEATURES).rglob("*")):
        opened = os.open(path, os.O_RDONLY)
        os.fsync(opened)
        os.close(opened)


def _held_batches(dim: int) -> list[Batch]:
    """Return a few batches, which are written in turns, so that making them is not timed."""
    generator = np.random.default_rng(0)
    batches: list[Batch] = []
    for _ in range(NUM_HELD):
        batch_BD = generator.normal(size=(BATCH_ROWS, dim))
        batches.append(batch_BD.astype(np.float16))
    return batches


def _batches(held: Sequence[Batch], rows: int) -> Iterator[Batch]:
    num_batches = rows // BATCH_ROWS
    return islice(cycle(held), num_batches)
