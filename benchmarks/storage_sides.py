"""The sides of `benchmarks.storage`. Suffixes: N rows or images, H W C pixels, D dims, B block."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.features import FEATURES, Features, write_features
from deepcluster_core.artifacts.images import Images, ImagesWriter, PackedImage
from deepcluster_core.context import Context
from deepcluster_core.memory import keep_freed_memory
from stages import index

Figures = dict[str, float]
RAW = "raw"
BATCH_ROWS = 256
BLOCK_BYTES = 64 << 20
AGAIN = 5
"""Passes over the images: a thousand small ones are read in milliseconds."""


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
    with (
        new_artifact(index.STAGE, out, config={}, inputs={}, context=Context(seed=0)) as draft,
        (Path(folder) / RAW).open("wb") as raw,
    ):
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
    """Copy all images out of the artifact, in the same order."""
    return _copied(Images(Path(folder) / "images"), count)


def _copied(images: Images | NDArray[np.uint8], count: int) -> Figures:
    order_N = np.random.default_rng(1).permutation(count).tolist()
    copied_bytes = sum(np.array(images[i]).nbytes for i in order_N)  # all in the page cache now
    start = time.perf_counter()
    for _ in range(AGAIN):
        for number in order_N:
            np.array(images[number])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "gb_per_s": AGAIN * copied_bytes / 1e9 / seconds}


def write_rows(folder: str, rows: int, dim: int) -> None:
    """Write features, and their rows as a plain file."""
    raw_written(folder, rows, dim)
    zarr_written(folder, rows, dim)


def raw_written(folder: str, rows: int, dim: int) -> Figures:
    """Write rows to a plain file, durable in the end."""
    path, batches = Path(folder) / RAW, _batches(rows, dim)
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    with path.open("wb") as file:
        for batch_BD in batches:
            file.write(batch_BD.data)
        file.flush()
        os.fsync(file.fileno())
    return _pace(start, rows, dim)


def zarr_written(folder: str, rows: int, dim: int) -> Figures:
    """Write the same rows as the extract stage does, durable in the end."""
    out, batches = Path(folder), _batches(rows, dim)
    for path in sorted((out / FEATURES).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    start = time.perf_counter()
    write_features(out, batches, num_images=rows, dtype="float16")
    for path in (out / FEATURES).rglob("*"):
        opened = os.open(path, os.O_RDONLY)
        os.fsync(opened)
        os.close(opened)
    return _pace(start, rows, dim)


def raw_read(folder: str, rows: int, dim: int) -> Figures:
    """Read the plain file block by block into new arrays."""
    block_values = BLOCK_BYTES // np.dtype(np.float16).itemsize

    def read() -> None:
        with (Path(folder) / RAW).open("rb") as file:
            while len(np.fromfile(file, np.float16, block_values)):
                pass

    return _second(read, rows, dim)


def zarr_read(folder: str, rows: int, dim: int) -> Figures:
    """Read the features block by block as the cluster stage does."""

    def read() -> None:
        for _ in Features(Path(folder)).blocks(BLOCK_BYTES):
            pass

    return _second(read, rows, dim)


def _second(read: Callable[[], None], rows: int, dim: int) -> Figures:
    """Time a second reading, in memory that the process has already, as the stages of a run do.

    The first one may have to wait for the system to find memory, several times as long.
    """
    keep_freed_memory()
    read()
    start = time.perf_counter()
    read()
    return _pace(start, rows, dim)


def _batches(rows: int, dim: int) -> Iterator[NDArray[np.float16]]:
    """Return an iterator over batches that are there already: no time goes to making them."""
    generator = np.random.default_rng(0)
    held = [generator.normal(size=(BATCH_ROWS, dim)).astype(np.float16) for _ in range(8)]
    return (held[number % len(held)] for number in range(rows // BATCH_ROWS))


def _pace(start: float, rows: int, dim: int) -> Figures:
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "gb_per_s": 2 * rows * dim / 1e9 / seconds}
