"""Rows that are read many times: in memory if they are few, else in a temporary file."""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.errors import ArtifactError

Floats = NDArray[np.float32]

MEMORY_BYTES = 256 << 20
"""Up to this size, rows are kept in memory."""


def keep_rows(
    blocks: Iterator[Floats],
    shape: tuple[int, int],
    folder: Path | None,
    *,
    memory_bytes: int | None = None,
) -> Floats:
    """Return consecutive blocks as one array, which is read-only if it lies in a file.

    The file has no name as soon as it is open, so that nothing is left of it, even after a crash.
    It is mapped: the system reads it when rows are used, and drops what memory has no room for.

    Args:
        blocks: rows (B, Q), float32.
        shape: (N, Q), the number of all rows and their width.
        folder: folder for the file; None for the system's folder of temporary files.
        memory_bytes: the most bytes to keep in memory instead; None for `MEMORY_BYTES`.

    Raises:
        ArtifactError: the disk is full, or the folder cannot be written.
    """
    num_bytes = 4 * shape[0] * shape[1]
    if memory_bytes is None:
        memory_bytes = MEMORY_BYTES
    if num_bytes <= memory_bytes:
        return filled(blocks, shape)
    with _reserved_file(folder, num_bytes) as descriptor:
        for block_BQ in blocks:
            # Written, not changed in the map: a full disk is then an error instead of a signal.
            with _explained(folder, num_bytes):
                _write(descriptor, block_BQ)
        # The map outlives the file object.
        mapped = mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.float32).reshape(shape)


def empty_rows(shape: tuple[int, int], folder: Path | None) -> Floats:
    """Return an array to be filled in any order: in memory, or mapped from a file without a name.

    The arguments and errors are those of `keep_rows`.
    """
    num_bytes = 4 * shape[0] * shape[1]
    if num_bytes <= MEMORY_BYTES:
        return np.empty(shape, np.float32)
    with _reserved_file(folder, num_bytes) as descriptor, _explained(folder, num_bytes):
        mapped = mmap.mmap(descriptor, num_bytes)
    return np.frombuffer(mapped, np.float32).reshape(shape)


def filled(blocks: Iterator[Floats], shape: tuple[int, int]) -> Floats:
    """Return consecutive blocks as one array in memory, holding one block at a time besides it."""
    rows_NQ = np.empty(shape, np.float32)
    start = 0
    for block_BQ in blocks:
        end = start + len(block_BQ)
        rows_NQ[start:end] = block_BQ
        start = end
    return rows_NQ


@contextmanager
def _reserved_file(folder: Path | None, num_bytes: int) -> Iterator[int]:
    """Yield the descriptor of a file without a name, of zeros.

    The space on the disk is taken now, so that a full disk is noticed before any work is done.
    """
    with _explained(folder, num_bytes):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder, buffering=0)
    with file:
        with _explained(folder, num_bytes):
            file.truncate(num_bytes)
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, num_bytes)
        yield file.fileno()


def _write(descriptor: int, block_BQ: Floats) -> None:
    unwritten = np.ascontiguousarray(block_BQ).reshape(-1).view(np.uint8).data
    while unwritten:
        written = os.write(descriptor, unwritten)
        unwritten = unwritten[written:]


@contextmanager
def _explained(folder: Path | None, num_bytes: int) -> Iterator[None]:
    """Replace an error of the system by one that names the folder and the setting."""
    try:
        yield
    except OSError as error:
        where = folder or Path(tempfile.gettempdir())
        raise ArtifactError(
            f"{where}: the {num_bytes:,} bytes of intermediate results cannot be written here.\n"
            f"  Cause: {error.strerror or error}\n"
            f"  Fix:   set compute.scratch to a folder on a disk with more room; for k-means, "
            f"cluster.max_points_per_centroid keeps a sample alone."
        ) from error
