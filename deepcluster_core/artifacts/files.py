"""Write files durably, record their hashes, and check later that they are unchanged.

All files of an artifact are made durable here.
"""

import glob
import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from deepcluster_core.config import StrictConfig

HASHED_ALWAYS_BYTES = 1 << 20
"""Largest size of files that are hashed on every check, which takes less than a millisecond.

Larger files are hashed only if their size or time changed; their readers verify the contents.
"""

Signature = tuple[int, int, int, int]
"""File status that changes when a file is written, replaced or given new permissions."""

OLD_S = 3600.0
"""Age in seconds from which the partial file of a small file counts as abandoned."""


class FileRecord(StrictConfig):
    """The size, hash and time of a file when it was committed."""

    bytes: int
    sha256: str
    mtime_ns: int
    """Modification time. A large file with this size and time is assumed to be unchanged."""

    def problem_of(self, path: Path, *, hash_always: bool = False) -> str | None:
        """Return a description of how a file differs from this record, or None.

        Args:
            path: path of the file.
            hash_always: also hash a large file whose size and time have not changed.

        Raises:
            PermissionError: the file may not be read, so it cannot be checked.
        """
        try:
            found = path.stat()
            if found.st_size != self.bytes:
                return f"{found.st_size} bytes instead of {self.bytes}"
            # Hashing a large file takes time, so its size and time are trusted unless asked.
            must_hash = hash_always or self.bytes <= HASHED_ALWAYS_BYTES
            if not must_hash and found.st_mtime_ns == self.mtime_ns:
                return None
            sha256 = sha256_at(path, found.st_size, found.st_mtime_ns)
        except PermissionError:
            raise
        except OSError as error:
            return _cause(error)
        if sha256 != self.sha256:
            return "its contents changed since it was committed"
        return None


def record_files(folder: Path, found: Iterable[Path]) -> dict[str, FileRecord]:
    """Make files durable and return their records by their names in `folder`.

    A file is hashed while the kernel writes it. For AlexNet's checkpoint of 456 MB on two cores
    this takes 0.17 s, instead of 0.35 s in sequence.

    Args:
        folder: the folder that the names are relative to.
        found: the files, and folders whose entries are made durable too.
    """
    found = [*found]
    files = [path for path in found if path.is_file()]
    folders = [path for path in found if path.is_dir()]
    with ThreadPoolExecutor() as pool:  # hashing and fsync release the interpreter lock
        syncs: list[Future[None]] = []
        records: dict[str, Future[FileRecord]] = {}
        for path in files:
            name = path.relative_to(folder).as_posix()
            syncs.append(pool.submit(sync, path))
            records[name] = pool.submit(_record, path)
        # A new file is durable only if the entry in its folder is.
        for path in folders:
            syncs.append(pool.submit(sync, path))
        for future in syncs:
            future.result()
        return {name: record.result() for name, record in records.items()}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that readers, even after a crash, see the old or the new contents."""
    delete_old_parts(path)
    # Named by process, because several processes may write the file at once.
    process = os.getpid()
    part = path.with_name(f"{path.name}.{process}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync(path.parent)


def delete_old_parts(path: Path) -> None:
    """Delete abandoned partial files of a file, but none that another process may be writing."""
    pattern = f"{glob.escape(path.name)}.*.part"
    for part in path.parent.glob(pattern):
        # Another process may have renamed or deleted it meanwhile.
        with suppress(FileNotFoundError):
            age_s = time.time() - part.stat().st_mtime
            if age_s > OLD_S:
                part.unlink()


def signature_of(file: str | int) -> Signature | None:
    """Return the signature of a file, by its path or descriptor; None if it cannot be reached."""
    try:
        found = os.stat(file)  # noqa: PTH116  a Path takes longer to build than the call
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def let_others_read(path: Path) -> None:
    """Give a file the permissions of the umask; safetensors creates files for the owner alone."""
    mask = os.umask(0)  # the mask can only be read by setting it
    os.umask(mask)
    permissions = 0o666 & ~mask
    path.chmod(permissions)


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


@lru_cache(maxsize=1 << 16)  # larger than the number of files in a run
def sha256_at(path: Path, size: int, mtime_ns: int) -> str:
    """Return the SHA-256 of a file of this size and time, in hexadecimal.

    The result is cached by path, size and time, so that a process hashes each file once.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
