"""Pins: locks by which processes keep an artifact's files in a mirror from being evicted."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepcluster_core.artifacts.locks import WITHOUT_LOCKS

PINS = ".mirror/pins"


@contextmanager
def pinned(above: Path, folder: str) -> Iterator[None]:
    """Keep the files of an artifact during the block; the kernel ends it with the process.

    Args:
        above: the folder that the mirror lies in.
        folder: name of the artifact's folder in the run.
    """
    opened = _open(above, folder)
    try:
        _flock(opened, exclusive=False)
        yield
    finally:
        os.close(opened)


@contextmanager
def unpinned(above: Path, folder: str) -> Iterator[bool]:
    """Yield whether nobody uses an artifact; nobody can begin to during the block."""
    opened = _open(above, folder)
    try:
        yield _flock(opened, exclusive=True)
    finally:
        os.close(opened)


def _open(above: Path, folder: str) -> int:
    path = above / PINS / folder.replace("/", "%2F")
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _flock(opened: int, *, exclusive: bool) -> bool:
    """Lock an open file: wait to share it, but not to have it alone; return whether it is locked.

    Where the file system has no locks, an artifact counts as used by nobody; its files are then
    kept by the time of their last use alone.
    """
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock  # noqa: PLC0415  not on Windows

    try:
        flock(opened, LOCK_EX | LOCK_NB if exclusive else LOCK_SH)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True
