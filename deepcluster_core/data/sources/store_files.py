"""Files on an object store: what is listed of them, and how they are read."""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from deepcluster_core.artifacts.remote.store import Store, StoredObject
from deepcluster_core.data.sources.base import check_file_size
from deepcluster_core.errors import SourceError, StoreError
from deepcluster_core.store_urls import StoreUrl

REQUESTS = 32
"""Requests about small files that are in flight at once. One takes tens of milliseconds, most of
which is waiting."""
TAIL_BYTES = 1 << 16
"""Bytes at the end of a file that are kept: the footer of a Parquet file."""
HEADS_AT_MOST = 16
"""Up to this number of files of a folder are asked for one by one. Of more, the folder is listed,
1000 files a request."""


@cache
def client_of(bucket: StoreUrl) -> Store:
    """Return the client of a bucket, one for each process: it keeps connections open."""
    return Store(bucket)


def _place(url: StoreUrl) -> tuple[Store, str]:
    """Return the client of the bucket of a URL, and the key of the URL in it."""
    return client_of(url.bucket), url.key


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file on a store, in the version that was listed."""

    folder: StoreUrl
    """The folder that `name` is relative to."""
    name: str
    """'/'-separated."""
    size: int
    """Bytes."""
    etag: str
    """The version of its contents, by which a changed file is noticed."""

    def __str__(self) -> str:
        return self.url

    @property
    def url(self) -> StoreUrl:
        """The whole URL, for messages."""
        return self.folder.below(self.name)

    def read(self) -> bytes:
        """Return the contents of an image file.

        Raises:
            OSError: it is too large, or has been deleted; the text is the reason alone.
            SourceError: it has changed since it was listed, or the store is not available.
        """
        check_file_size(self.size)
        return self.read_range(0, self.size) if self.size else b""

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to, but not including, `end`.

        Raises:
            FileNotFoundError: it has been deleted.
            SourceError: it has changed since it was listed, or the store is not available.
        """
        try:
            client, key = _place(self.url)
            data = client.get_range(key, start, end, etag=self.etag)
        except StoreError as error:
            raise unavailable(self.url, error) from error
        if data is None:
            raise self._changed()
        return data

    def open(self, _mode: Literal["rb"] = "rb", /) -> io.BufferedReader:
        """Open the file for reading a few parts of it, each by one request."""
        return io.BufferedReader(_Ranges(self), TAIL_BYTES)

    def stat(self) -> "StoreStatus":
        """Return the size, as `Path.stat` does."""
        return StoreStatus(self.size)

    def _changed(self) -> SourceError:
        return SourceError(
            f"{self.url}: has changed since it was listed, a moment ago.\n"
            f"  Fix: wait until the images on the store do not change any more, then run again."
        )


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What `Path.stat` returns, as far as it is used."""

    st_size: int


class _Ranges(io.RawIOBase):
    """A file of a store as a file of Python; its end is read once for all who open it."""

    def __init__(self, file: StoreFile) -> None:
        super().__init__()
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        start = self._at
        end = min(start + len(buffer), self._file.size)
        if start >= end:
            return 0
        tail_start = max(0, self._file.size - TAIL_BYTES)
        if start >= tail_start:
            tail = _tail(self._file, tail_start)
            data = tail[start - tail_start : end - tail_start]
        else:
            data = self._file.read_range(start, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@lru_cache(maxsize=1024)
def _tail(file: StoreFile, start: int) -> bytes:
    return file.read_range(start, file.size)


def find_files(urls: Sequence[StoreUrl]) -> list[StoreFile]:
    """Return the files at URLs, which need not be in one folder.

    Raises:
        SourceError: some do not exist, or the store is not available.
    """
    by_folder: dict[StoreUrl, list[str]] = {}
    for url in urls:
        if url.parent is None:
            raise SourceError(f"{url}: is a bucket, not a file.\n  Fix: give the file in it.")
        by_folder.setdefault(url.parent, []).append(url.name)
    found: dict[StoreUrl, StoreFile] = {}
    for folder, names in by_folder.items():
        for file in known_files(folder, names):
            found[file.url] = file
    missing = [url for url in urls if url not in found]
    if missing:
        others = f", and {len(missing) - 1:,} others" if len(missing) > 1 else ""
        raise SourceError(
            f"{missing[0]}: does not exist{others}.\n"
            f"  Fix: give a folder, list (.txt, .csv, .tsv), .parquet or .tar file of images; "
            f"{_found_beside(missing[0])}"
        )
    return [found[url] for url in urls]


def _found_beside(url: StoreUrl) -> str:
    """Return what is in the folder of a missing file, for a message."""
    folder = url.parent
    assert folder is not None
    with explain_store(folder):
        client, key = _place(folder)
        folders, objects = client.list_folder(key)
    names = [*(f"{name}/" for name in folders), *(_last(found.name) for found in objects)]
    if not names:
        return f"{folder}/ is empty or does not exist either."
    shown = ", ".join(sorted(names)[:3])
    return f"{folder}/ holds {shown}{', …' if len(names) > 3 else ''}."


def known_files(folder: StoreUrl, names: Sequence[str]) -> list[StoreFile]:
    """Return those of the named files of a folder that exist, in any order.

    Raises:
        SourceError: the store is not available.
    """
    client, key = _place(folder)
    found: Iterable[StoredObject | None]
    with explain_store(folder):
        if len(names) > HEADS_AT_MOST:
            wanted = set(names)
            _, listed = client.list_folder(key)
            found = [each for each in listed if _last(each.name) in wanted]
        else:
            keys = [_place(folder.below(name))[1] for name in names]
            with ThreadPoolExecutor(HEADS_AT_MOST) as pool:
                found = [*pool.map(client.head, keys)]
    files: list[StoreFile] = []
    for each in found:
        if each is not None:
            files.append(StoreFile(folder, _last(each.name), each.bytes, each.etag))
    return files


def list_files(folder: StoreUrl) -> list[StoreFile]:
    """Return all files of a folder at any depth, in the order of the bytes of their names.

    Raises:
        SourceError: the bucket does not exist, or the store is not available.
    """
    client, key = _place(folder)
    start = len(key) + 1 if key else 0
    files: list[StoreFile] = []
    with explain_store(folder):
        for each in client.list(key):
            name = each.name[start:]
            # A name that ends in a slash is how some programs mark an empty folder.
            if name and not name.endswith("/"):
                files.append(StoreFile(folder, name, each.bytes, each.etag))
    files.sort(key=lambda file: os.fsencode(file.name))
    return files


def _last(key: str) -> str:
    return key.rpartition("/")[2]


@contextmanager
def explain_store(url: StoreUrl) -> Iterator[None]:
    """Raise SourceError in place of the errors of a store about a folder or file."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(
            f"{url}: the bucket does not exist.\n  Fix: correct the URL, or create the bucket."
        ) from error
    except StoreError as error:
        raise unavailable(url, error) from error


def unavailable(url: StoreUrl, error: StoreError) -> SourceError:
    """Return the error about images for one of the store."""
    first, *rest = str(error).splitlines()
    return SourceError("\n".join([first if url in first else f"{url}: {first}", *rest]))


def fingerprint_stored(kind: str, files: Iterable[tuple[str, StoreFile | str | None]]) -> str:
    """Return the SHA-256, in hex, of names, sizes and ETags, in the given order.

    Args:
        kind: the kind of the source.
        files: name relative to the source, and file; None for a file that is missing, and what
            `file_facts` returns for one of this machine.
    """
    digest = hashlib.sha256(f"store {kind}".encode())
    for name, file in files:
        facts = file or "missing"
        if isinstance(facts, StoreFile):
            facts = f"{facts.size} {facts.etag}"
        digest.update(b"\0%b\0%b" % (os.fsencode(name), facts.encode()))
    return digest.hexdigest()
