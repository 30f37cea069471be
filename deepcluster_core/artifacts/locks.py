"""One process at a time in an artifact's folder, also where its users and file systems differ."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from deepcluster_core.artifacts.permissions import may_write
from deepcluster_core.artifacts.resource_errors import FORBIDDEN, explain_resource_errors

log = logging.getLogger(__name__)

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What `flock` says on network and FUSE file systems that do not lock."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the artifact for one process at a time; the kernel lets go when the holder dies.

    Raises:
        ArtifactError: neither the lock file beside the folder nor the folder may be opened.
    """
    with explain_resource_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        opened = _open_lock(folder)
    try:
        _hold(opened, folder)
        yield
    finally:
        os.close(opened)


def _open_lock(folder: Path) -> int:
    """Return an open lock file, or the open folder itself where no file may be made beside it.

    Another user's lock file is often only readable, which is enough to lock it on a local file
    system. It is opened before anything is created: in a sticky folder the kernel refuses to
    create a file that is there already and belongs to somebody else.
    """
    path = folder.parent / f".{folder.name}.lock"
    for flags in (os.O_RDWR, os.O_RDONLY):  # NFS locks only what is open for writing
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            break
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in FORBIDDEN or not folder.is_dir() or not may_write(folder):
            raise
    return os.open(folder, os.O_RDONLY)


def _hold(opened: int, folder: Path) -> None:
    """Lock an open file; where the file system has no locks, go on without and say so."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        _warn_without_locks(str(folder.parent))


@cache
def _warn_without_locks(place: str) -> None:
    """Log a warning, once for each folder."""
    log.warning(
        "%s: this file system has no file locks; let no two processes work on it at once", place
    )
