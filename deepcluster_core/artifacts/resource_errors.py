"""Turn a full disk, missing permissions and exhausted memory into errors that name a fix."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepcluster_core.artifacts.permissions import (
    SHARING,
    is_read_only,
    may_read,
    why_not_readable,
    why_not_writable,
)
from deepcluster_core.errors import ArtifactError, DeepClusterError, NoRoomError
from deepcluster_core.shortage import explain_shortage

FULL = (errno.ENOSPC, errno.EDQUOT)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def explain_resource_errors(folder: Path) -> Iterator[None]:
    """Replace errors about disk, permissions or memory by errors that name a fix.

    Files that the block wrote are kept, and the artifact counts as unfinished.

    Args:
        folder: folder of the artifact that the block writes.

    Raises:
        NoRoomError: the disk is full.
        ArtifactError: the folder may not be written, a file is in its place, memory is short, or
            the system allows no more open files or threads.
    """
    try:
        yield
    except DeepClusterError:
        raise
    except Exception as error:
        explained = _explained(error, folder)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, folder: Path) -> ArtifactError | None:
    number = error.errno if isinstance(error, OSError) else None
    # safetensors wraps the system's error in a class of its own, without its number.
    text = str(error)
    if number in FULL or "(os error 28)" in text:
        free = free_disk(folder)
        return NoRoomError(
            f"{folder}: the disk is full: {bytes_in(folder):,} bytes of this artifact are written, "
            f"{free:,} bytes are free.\n"
            f"  Fix: make room on that disk; the same command then continues."
        )
    if number in IN_THE_WAY:
        return ArtifactError(
            f"{folder}: a file is in the place of a folder ({error}).\n"
            f"  Fix: move it away; the same command then continues."
        )
    is_forbidden = "(os error 13)" in text or "(os error 30)" in text
    if number in FORBIDDEN or is_forbidden:
        place = _place_of(error, folder)
        verb, cause = _denied(place)
        # Permissions do not help on a file system that is mounted read-only.
        sharing = "" if is_read_only(place) else f" {SHARING}"
        return ArtifactError(
            f"{folder}: may not be {verb} ({error}).\n"
            f"  Cause: {cause}\n"
            f"  Fix:   have the permissions changed; the same command then continues.{sharing}"
        )
    return explain_shortage(error, folder)


def free_disk(path: Path) -> int:
    """Return the free bytes of the disk that a path, which need not exist yet, would be on."""
    # The nearest existing folder above lies on this disk.
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _denied(place: Path) -> tuple[str, str]:
    """Return the operation that is not permitted ("read" or "written"), and the reason."""
    with suppress(OSError):
        if place.exists() and not may_read(place):
            return "read", why_not_readable(place)
    return "written", why_not_writable(place)


def _place_of(error: Exception, folder: Path) -> Path:
    """Return the path that the error names, or the folder if it names none."""
    name = error.filename if isinstance(error, OSError) else None
    if isinstance(name, str) and Path(name).is_absolute():
        return Path(name)
    return folder


def bytes_in(folder: Path) -> int:
    """Return the size of all files below a folder, which others may change meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # threads can still be writing and deleting
            if path.is_file():
                total += path.stat().st_size
    return total
