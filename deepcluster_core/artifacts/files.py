"""Files that outlive a crash: written, flushed to the disk, hashed; and whether they still are so.

Everything in an artifact goes through here on its way to the disk.
"""

import glob
import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from deepcluster_core.config import StrictConfig

HASHED_ALWAYS_BYTES = 1 << 20
"""Files up to this are hashed whenever they are looked at, which takes below a millisecond; bigger
ones only when their size or time changed, because those are checked when they are read."""

Signature = tuple[int, int, int, int]
"""What changes when a file is written or replaced, or its permissions are changed."""

OLD_S = 3600.0
"""Nobody takes so long to write a small file."""


class FileRecord(StrictConfig):
    """One file, as it was when it was durable."""

    bytes: int
    sha256: str
    mtime_ns: int
    """When size and time are as committed a big file is taken as unchanged, else it is hashed."""

    def problem_of(self, path: Path, *, hash_always: bool = False) -> str | None:
        """Return in words how a file differs from this record, or None.

        Args:
            path: of the file.
            hash_always: also hash a big file whose size and time have not changed.

        Raises:
            PermissionError: the file may not be read, so nobody can tell.
        """
        try:
            found = path.stat()
            if found.st_size != self.bytes:
                return f"{found.st_size} bytes instead of {self.bytes}"
            is_small = self.bytes <= HASHED_ALWAYS_BYTES
            if not (is_small or hash_always) and found.st_mtime_ns == self.mtime_ns:
                return None
            same = sha256_at(path, found.st_size, found.st_mtime_ns) == self.sha256
        except PermissionError:
            raise
        except OSError as error:
            return _cause(error)
        return None if same else "its contents changed since it was committed"


def record_files(folder: Path, found: Iterable[Path]) -> dict[str, FileRecord]:
    """Return the records of files, by their names in `folder`, after they and those are durable.

    A file is hashed while the kernel writes it: for AlexNet's checkpoint, 456 MB, 0.17 s on two
    cores, one after the other 0.35 s.

    Args:
        folder: that the names are relative to.
        found: files, and folders whose names shall be durable as well.
    """
    found = [*found]
    paths = [path for path in found if path.is_file()]
    with ThreadPoolExecutor() as pool:  # hashing and fsync let go of the interpreter lock
        recorded = [(path, pool.submit(sync, path), pool.submit(_record, path)) for path in paths]
        folders = [pool.submit(sync, path) for path in found if path.is_dir()]
        for future in (*folders, *(synced for _, synced, _ in recorded)):
            future.result()
        return {path.relative_to(folder).as_posix(): made.result() for path, _, made in recorded}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that a reader, or a crash, sees the old one or the new one."""
    _delete_old_parts(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync(path.parent)


def _delete_old_parts(path: Path) -> None:
    """Delete what writers of a file left that died, and nothing that another still writes."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > OLD_S:
                part.unlink()


def signature_of(file: str | int) -> Signature | None:
    """Return the signature of a file, by its path or descriptor; None if it cannot be reached."""
    try:
        found = os.stat(file)  # noqa: PTH116  a Path takes longer to build than the call
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, outlive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def let_others_read(path: Path) -> None:
    """Give a file the permissions that new files get here; safetensors keeps its own private."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def delete(path: Path) -> None:
    """Delete a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _cause(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    return f"cannot be read ({error.strerror})"


def _record(path: Path) -> FileRecord:
    found = path.stat()
    sha256 = sha256_at(path, found.st_size, found.st_mtime_ns)
    return FileRecord(bytes=found.st_size, sha256=sha256, mtime_ns=found.st_mtime_ns)


@lru_cache(maxsize=1 << 16)  # more than a run has: else each pass over it would hash all again
def sha256_at(path: Path, size: int, mtime_ns: int) -> str:
    """Return the SHA-256 of a file of this size and time, in hexadecimal.

    Within one process a file is hashed once: what it has committed it reads back from memory.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
