"""Lock an artifact's folder for one process, across users and file systems."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import lock_descriptor

from deepcluster_core.artifacts.permissions import may_write
from deepcluster_core.artifacts.resource_errors import FORBIDDEN, explain_resource_errors

log = logging.getLogger(__name__)

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Error numbers of locking on network and FUSE file systems without locks."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock of an artifact's folder; the kernel releases it when the process dies.

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
    """Return an open lock file, or the opened folder if no file may be created beside it.

    Another user's lock file is often only readable, which is enough to lock it on a local file
    system. An existing file is opened without O_CREAT first, because in a sticky folder the kernel
    rejects O_CREAT for an existing file of another user.
    """
    path = folder.parent / f".{folder.name}.lock"
    for flags in (os.O_RDWR, os.O_RDONLY):  # NFS only locks files that are open for writing
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
        if error.errno not in FORBIDDEN:
            raise
        if not folder.is_dir() or not may_write(folder):
            raise
    # The user may change the artifact but not create files beside it; a folder can be locked too.
    return os.open(folder, os.O_RDONLY)


def _hold(opened: int, folder: Path) -> None:
    """Lock an open file; log a warning and continue if the file system has no locks."""
    try:
        lock_descriptor(opened)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        _warn_without_locks(str(folder.parent))


@cache
def _warn_without_locks(place: str) -> None:
    """Log a warning, once for each folder."""
    log.warning(
        "%s: this file system has no file locks; let only one process work on it at a time", place
    )
