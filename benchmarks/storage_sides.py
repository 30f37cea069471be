"""The sides of `benchmarks.storage`. Suffixes: N rows or images, H W C pixels, D dims, B block."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.artifacts.file_names import FEATURES
from deepcluster_core.artifacts.images import Images, ImagesWriter, PackedImage
from deepcluster_core.context import Context
from deepcluster_core.memory import keep_freed_memory
from stages.index import index

Figures = dict[str, float]
Batch = NDArray[np.float16]
RAW = "raw"
BATCH_ROWS = 256
BLOCK_BYTES = 64 << 20
AGAIN = 5
"""Passes over the images, since a single one over a thousand small images takes milliseconds."""


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
        new_artifact(index.identity, out, config={}, inputs={}, context=Context(seed=0)) as draft,
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
    """Copy all images out of the artifact, in the order of the memory map's benchmark."""
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
    held = _held(dim)
    _write_raw(Path(folder), held, rows)
    _write_zarr(Path(folder), held, rows)


def raw_written(folder: str, rows: int, dim: int) -> Figures:
    """Write rows to a plain file, and flush it to the disk."""
    held = _held(dim)
    return _second(lambda out: _write_raw(out, held, rows), folder, rows * dim)


def zarr_written(folder: str, rows: int, dim: int) -> Figures:
    """Write equal rows as the extract stage does, and flush them to the disk."""
    held = _held(dim)
    return _second(lambda out: _write_zarr(out, held, rows), folder, rows * dim)


def raw_read(folder: str, rows: int, dim: int) -> Figures:
    """Read the plain file block by block into new arrays."""
    block_values = BLOCK_BYTES // np.dtype(np.float16).itemsize

    def read(_: Path) -> None:
        with (Path(folder) / RAW).open("rb") as file:
            while len(np.fromfile(file, np.float16, block_values)):
                pass

    return _second(read, folder, rows * dim)


def zarr_read(folder: str, rows: int, dim: int) -> Figures:
    """Read the features block by block as the cluster stage does."""

    def read(_: Path) -> None:
        for _block_BD in Features(Path(folder)).blocks(BLOCK_BYTES):
            pass

    return _second(read, folder, rows * dim)


def _second(work: Callable[[Path], None], folder: str, values: int) -> Figures:
    """Time a second go, in memory that the process has already, as the stages of a run do.

    The first may have to wait until the system finds memory, several times as long.

    Args:
        work: gets a new folder each time.
        folder: where those are made.
        values: float16, that it reads or writes.
    """
    keep_freed_memory()
    seconds = 0.0
    for _ in range(2):
        with TemporaryDirectory(dir=folder) as out:
            start = time.perf_counter()
            work(Path(out))
            seconds = time.perf_counter() - start
    return {"seconds": seconds, "gb_per_s": 2 * values / 1e9 / seconds}


def _write_raw(out: Path, held: Sequence[Batch], rows: int) -> None:
    with (out / RAW).open("wb") as file:
        for batch_BD in _batches(held, rows):
            file.write(batch_BD.data)
        file.flush()
        os.fsync(file.fileno())


def _write_zarr(out: Path, held: Sequence[Batch], rows: int) -> None:
    write_features(out, _batches(held, rows), num_images=rows, dtype="float16")
    for path in (out / FEATURES).rglob("*"):
        opened = os.open(path, os.O_RDONLY)
        os.fsync(opened)
        os.close(opened)


def _held(dim: int) -> list[Batch]:
    """Return a few batches, which are written in turns: no time goes to making them."""
    generator = np.random.default_rng(0)
    return [generator.normal(size=(BATCH_ROWS, dim)).astype(np.float16) for _ in range(8)]


def _batches(held: Sequence[Batch], rows: int) -> Iterator[Batch]:
    return (held[number % len(held)] for number in range(rows // BATCH_ROWS))
