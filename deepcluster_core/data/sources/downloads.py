"""Download large files of a store ahead, into a folder of which the size is limited."""

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from deepcluster_core.data.sources.store_files import StoreFile
from deepcluster_core.errors import SourceError, first_line

CHUNK_BYTES = 8 << 20
"""Bytes of one request. A file whose connection breaks is repeated from here, not as a whole."""
REQUESTS = 8
"""Requests in flight, each of which holds a chunk in memory."""
AHEAD = 4
"""Limit on the files that are downloaded before they are needed."""
ATTEMPTS = 3
"""How often a chunk is requested if its contents are cut off. The client repeats requests that fail
at once."""
DEFAULT_BYTES = 8 << 30
"""Limit on the size of the folder, unless half of the free disk is less."""
PREFIX = "images-"


@dataclass(frozen=True)
class Scratch:
    """Where downloaded files are, and how many bytes of them."""

    folder: Path | None = None
    """None: the system's folder for temporary files."""
    limit_bytes: int | None = None
    """None: 8 GiB, or half of the free disk if that is less. Two files may always be there."""
    num_processes: int = 1
    """Processes that share the limit, such as the ranks of a stage."""

    def make(self) -> Path:
        """Make a folder for this process, and delete those of processes that have died."""
        root = self.folder or Path(tempfile.gettempdir())
        root.mkdir(parents=True, exist_ok=True)
        for old in root.glob(f"{PREFIX}*"):
            _delete_abandoned(old)
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))

    def limit(self, folder: Path) -> int:
        """Return the limit of this process, in bytes."""
        limit = self.limit_bytes
        if limit is None:
            limit = min(DEFAULT_BYTES, shutil.disk_usage(folder).free // 2)
        return limit // self.num_processes


def _delete_abandoned(folder: Path) -> None:
    """Delete the folder of a process unless that process holds its lock."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # another process deletes it, or it is another user's
        return
    try:
        if lock_descriptor(descriptor, blocking=False):
            shutil.rmtree(folder, ignore_errors=True)
            unlock_descriptor(descriptor)
    except OSError:
        return  # no locks on this file system, so that nobody knows whether it is abandoned
    finally:
        os.close(descriptor)


class Downloaded:
    """A downloaded file, deleted when nothing refers to this object."""

    def __init__(self, path: Path, size: int, parts: "list[Future[None]]") -> None:
        self.path = path
        self.size = size
        self._parts = parts

    def wait(self) -> "Downloaded":
        """Wait until the file is whole.

        Raises:
            SourceError: it could not be downloaded.
        """
        for part in self._parts:
            part.result()
        self._parts = []
        return self


class Downloads:
    """The files of a source, downloaded one after the other while the earlier ones are used."""

    def __init__(self, files: Sequence[StoreFile], scratch: Scratch) -> None:
        """Store the arguments; nothing is downloaded yet."""
        self._files = files
        self._scratch = scratch
        self._started: dict[int, Downloaded] = {}
        self._next = 0
        """Number of the file after the last one taken; those before must not be begun again."""
        self._num_bytes = 0
        """Bytes of all files that are there or being downloaded."""
        self._lock = threading.RLock()  # a finalizer may run in a thread that holds it
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="download")
        self._descriptor: int | None = None
        self._is_closed = False

    def take(self, number: int) -> Downloaded:
        """Return a file, waiting until it is whole; from the second file on, begin those after it.

        Raises:
            SourceError: it cannot be downloaded, or there is no room for it.
        """
        assert number >= self._next, "each file is taken once"
        self._start(number)
        self._next = number + 1
        if number > 0:
            self.look_ahead()
        return self._started.pop(number).wait()

    def look_ahead(self) -> None:
        """Begin to download the files after the last one taken, as far as there is room."""
        for later in range(self._next, min(self._next + AHEAD, len(self._files))):
            if later in self._started:
                continue
            size = self._files[later].size
            with self._lock:
                total = self._num_bytes + size
            if total > max(self._limit, 2 * size):
                return
            self._start(later)

    def close(self) -> None:
        """Stop downloading, and delete what nobody uses."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._started.clear()
        self._is_closed = True
        self._unlock_if_unused()

    @cached_property
    def _folder(self) -> Path:
        folder = self._scratch.make()
        weakref.finalize(self, _remove_if_empty, folder)
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            lock_descriptor(self._descriptor)
        except OSError:
            pass  # no locks on this file system; see `_delete_abandoned`
        return folder

    @cached_property
    def _limit(self) -> int:
        return self._scratch.limit(self._folder)

    def _start(self, number: int) -> None:
        if number in self._started:
            return
        file = self._files[number]
        path = self._folder / f"{number:06d}-{file.name.rpartition('/')[2]}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise self._no_room(file, error) from error
        with self._lock:
            self._num_bytes += file.size
        try:
            if hasattr(os, "posix_fallocate") and file.size:
                os.posix_fallocate(descriptor, 0, file.size)
        except OSError as error:
            os.close(descriptor)
            path.unlink()
            with self._lock:
                self._num_bytes -= file.size
            raise self._no_room(file, error) from error
        opened = _Opened(descriptor)
        parts = [
            self._pool.submit(_download, file, start, min(start + CHUNK_BYTES, file.size), opened)
            for start in range(0, file.size, CHUNK_BYTES)
        ]
        downloaded = Downloaded(path, file.size, parts)
        weakref.finalize(downloaded, self._release, path, file.size)
        self._started[number] = downloaded

    def _release(self, path: Path, size: int) -> None:
        path.unlink(missing_ok=True)
        with self._lock:
            self._num_bytes -= size
        self._unlock_if_unused()

    def _unlock_if_unused(self) -> None:
        """Give up the folder once nothing is downloaded any more and no file is in use.

        Until then the lock is kept: without it, another process would take the folder for that of
        one that has died, and delete files that are still to be read.
        """
        with self._lock:
            if not self._is_closed or self._num_bytes or self._descriptor is None:
                return
            descriptor, self._descriptor = self._descriptor, None
        os.close(descriptor)
        _remove_if_empty(self._folder)

    def _no_room(self, file: StoreFile, error: OSError) -> SourceError:
        return SourceError(
            f"{file.url}: its {file.size:,} bytes cannot be downloaded to {self._folder}.\n"
            f"  Cause: {error.strerror or error}\n"
            f"  Fix:   set compute.scratch to a folder on a disk with more room."
        )


class _Opened:
    """An open file, closed when nothing refers to this object."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # some files are still in use


def _download(file: StoreFile, start: int, end: int, opened: _Opened) -> None:
    """Write a part of a file.

    Raises:
        SourceError: it could not be downloaded in several attempts.
    """
    cause = ""
    for _ in range(ATTEMPTS):
        try:
            data = file.read_range(start, end)
        except FileNotFoundError as error:
            raise SourceError(
                f"{file.url}: has been deleted since it was listed.\n"
                f"  Fix: put it back, or run again without it."
            ) from error
        if len(data) == end - start:
            _write(opened.descriptor, data, start, file)
            return
        cause = f"{len(data):,} bytes came in place of {end - start:,}"
    raise SourceError(
        f"{file.url}: bytes {start:,} to {end:,} cannot be downloaded.\n"
        f"  Cause: {cause}\n"
        f"  Fix:   run the same command again; it goes on from the last part that it has saved."
    )


def _write(descriptor: int, data: bytes, start: int, file: StoreFile) -> None:
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, start)
            view, start = view[written:], start + written
    except OSError as error:
        raise SourceError(
            f"{file.url}: cannot be written to the folder for intermediate results.\n"
            f"  Cause: {first_line(error)}\n"
            f"  Fix:   set compute.scratch to a folder on a disk with more room."
        ) from error
