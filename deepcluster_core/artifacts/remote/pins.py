"""Locks by which processes on one machine share a mirror.

Pins keep an artifact's files from being evicted. Other locks let one thread at a time fetch a file.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from deepcluster_core.artifacts.locks import WITHOUT_LOCKS

PINS = ".mirror/pins"
FETCHING = ".fetching"
NUM_FETCHING = 64
"""Lock files for fetching, which many files share, so that there are not as many of them."""


@contextmanager
def pinned(above: Path, folder: str) -> Iterator[None]:
    """Keep the files of an artifact during the block; the kernel ends it with the process.

    Args:
        above: the folder that the mirror lies in.
        folder: name of the artifact's folder in the run.
    """
    opened = _open(above, folder)
    try:
        _lock(opened, "shared")
        yield
    finally:
        os.close(opened)


@contextmanager
def unpinned(above: Path, folder: str) -> Iterator[bool]:
    """Yield whether nobody uses an artifact; nobody can begin to during the block."""
    opened = _open(above, folder)
    try:
        yield _lock(opened, "if free")
    finally:
        os.close(opened)


@contextmanager
def alone(place: Path, file: str) -> Iterator[None]:
    """Wait until no other thread or process fetches a file, and exclude them.

    Args:
        place: the folder of all mirrors.
        file: URL of the file.
    """
    number = int(hashlib.sha256(file.encode()).hexdigest(), 16) % NUM_FETCHING
    opened = _open_path(place / FETCHING / str(number))
    try:
        _lock(opened, "alone")
        yield
    finally:
        os.close(opened)


def _open(above: Path, folder: str) -> int:
    return _open_path(above / PINS / folder.replace("/", "%2F"))


def _open_path(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _lock(opened: int, how: Literal["shared", "alone", "if free"]) -> bool:
    """Lock an open file; return whether it is locked.

    Where the file system has no locks, an artifact counts as used by nobody; its files are then
    kept by the time of their last use alone.

    Args:
        opened: the file.
        how: share it with others, or have it alone; wait for that, or only try.
    """
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock  # noqa: PLC0415  not on Windows

    operation = {"shared": LOCK_SH, "alone": LOCK_EX, "if free": LOCK_EX | LOCK_NB}[how]
    try:
        flock(opened, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True
