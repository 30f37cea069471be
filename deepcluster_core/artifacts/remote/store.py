"""One client for S3, Google Cloud Storage and Azure, with conditional writes and patience."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import uuid4

from deepcluster_core.artifacts.locks import lock
from deepcluster_core.artifacts.remote.client import (
    UPLOAD_S,
    client_of,
    explain_store_errors,
    is_transient,
    patience_s,
)
from deepcluster_core.artifacts.remote.streams import PART_BYTES, Download, FileParts
from deepcluster_core.artifacts.remote.urls import normal_url
from deepcluster_core.errors import ConfigError

if TYPE_CHECKING:
    from obstore import GetResult, UpdateVersion

SHA256 = "deepclustersha256"
"""Metadata of uploaded files: the SHA-256 of the contents, in hexadecimal. Azure refuses names with
a hyphen, and some servers drop headers with an underscore."""
PROBE = "_probe-"
"""Beginning of the names of objects with which a store is tried."""
PARTS_AT_ONCE = 2
"""Of one upload; several uploads run at once."""
Result = TypeVar("Result")


class Unchanged(Enum):
    """The answer of `Store.get_if_changed` if the object is still the known one."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


@dataclass(frozen=True)
class StoredObject:
    """What a store tells about an object without its contents."""

    name: str
    bytes: int
    etag: str
    """Opaque: the version of the contents, for `get_if_changed` and `replace`."""
    last_modified: datetime
    """By the clock of the store, usually in whole seconds."""
    sha256: str | None = None
    """What the uploader said about the contents; only from `head`, never from a list."""


class Store:
    """A prefix of a bucket; names are relative to it, with slashes.

    Every method raises `StoreError` (an ArtifactError) if the store cannot be reached, refuses the
    credentials or keeps failing; requests are repeated for a bounded time before that.
    """

    def __init__(self, url: str) -> None:
        self.url = normal_url(url, bucket_alone=True)
        self._patience_s = patience_s()
        # Half of the patience leaves time for a second try.
        self._client = client_of(self.url, self._patience_s, self._patience_s / 2)
        self._uploader = client_of(self.url, self._patience_s, UPLOAD_S)

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Return contents and ETag of an object; None if there is none."""
        found = self.read(name)
        return None if found is None else (found[0], found[1].etag)

    def read(self, name: str) -> tuple[bytes, StoredObject] | None:
        """Return contents and description of an object; None if there is none."""
        found = self._read(name, "")
        assert found is not UNCHANGED
        return found

    def get_if_changed(
        self, name: str, etag: str
    ) -> tuple[bytes, str] | Literal[Unchanged.UNCHANGED] | None:
        """Return contents and ETag unless the object still has this ETag; None if there is none."""
        found = self._read(name, _http_etag(etag))
        if found is None or found is UNCHANGED:
            return found
        return found[0], found[1].etag

    def _read(
        self, name: str, known: str
    ) -> tuple[bytes, StoredObject] | Literal[Unchanged.UNCHANGED] | None:
        """Read a small object, unless it still has the known HTTP ETag, if one is given."""
        import obstore  # noqa: PLC0415

        options: obstore.GetOptions = {"if_none_match": known} if known else {}

        def read() -> tuple[bytes, StoredObject]:
            found = obstore.get(self._client, name, options=options)
            return bytes(found.bytes()), _stored(found.meta)

        try:
            return self._patiently(name, read)
        except FileNotFoundError:
            return None
        except obstore.exceptions.NotModifiedError:
            return UNCHANGED

    def get_range(self, name: str, start: int, end: int, etag: str = "") -> bytes | None:
        """Return the bytes from `start` up to `end`; None if the object is not this version.

        Without an ETag, any version will do.

        Raises:
            FileNotFoundError: there is no such object.
        """
        import obstore  # noqa: PLC0415

        options: obstore.GetOptions = {"range": (start, end)}
        if etag:
            options["if_match"] = _http_etag(etag)

        def read() -> bytes:
            return bytes(obstore.get(self._client, name, options=options).bytes())

        try:
            return self._patiently(name, read)
        except obstore.exceptions.PreconditionError:
            return None

    def download(self, name: str, to: Path, seen: Callable[[bytes], None] | None = None) -> None:
        """Stream an object into the file `to`, which the caller renames when it has checked it.

        An answer that is cut is continued where it ended, if the object is still the same.

        Args:
            name: the object.
            to: the file to write.
            seen: called with the bytes, in order, as they arrive.

        Raises:
            FileNotFoundError: there is no such object.
            OSError: the file cannot be written.
        """
        with to.open("wb") as file:
            open_at = partial(self._open, name)
            part = Download(open_at, f"{self.url}/{name}", file.write, seen)
            with explain_store_errors(f"{self.url}/{name}"):
                while not part.is_complete:
                    deadline = part.last_progress + self._patience_s
                    part.go_on(last_try=time.monotonic() > deadline)
            file.flush()
            os.fsync(file.fileno())

    def _open(self, name: str, start: int, etag: str | None) -> "GetResult":
        """Open an object for reading from a byte on; fails if it no longer has this HTTP ETag."""
        import obstore  # noqa: PLC0415

        options: obstore.GetOptions = {}
        if start:
            options["range"] = {"offset": start}
        if etag:
            options["if_match"] = etag
        return obstore.get(self._client, name, options=options)

    def put(
        self,
        name: str,
        body: bytes | Path,
        *,
        sha256: str | None = None,
        sent: Callable[[int], None] | None = None,
    ) -> str:
        """Write an object, whatever was there; return its ETag.

        Args:
            name: the object.
            body: contents, or a file that has them; large files are sent in parts.
            sha256: digest of the contents, which `head` returns.
            sent: called with the number of bytes of each part that is read from a file; with a
                negative one if they are to be sent again.

        Raises:
            OSError: the file cannot be read.
        """
        import obstore  # noqa: PLC0415

        # A file system has no place for attributes.
        has_attributes = sha256 is not None and not self.url.startswith("file:")
        attributes: dict[Any, str] | None = {SHA256: sha256 or ""} if has_attributes else None
        parts = FileParts(body, sent) if isinstance(body, Path) else None

        def write() -> str:
            written = obstore.put(
                self._uploader,
                name,
                body if parts is None else parts.again(),
                attributes=attributes,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
            return _etag(written)

        return self._patiently(name, write)

    def create(self, name: str, body: bytes) -> str | None:
        """Write an object and return its ETag; None if one exists.

        The one that exists may be one's own, from a request whose response was lost.
        """
        import obstore  # noqa: PLC0415

        def write() -> str:
            return _etag(obstore.put(self._client, name, body, mode="create"))

        try:
            return self._patiently(name, write)
        except obstore.exceptions.AlreadyExistsError:
            return None

    def replace(self, name: str, body: bytes, etag: str) -> str | None:
        """Replace the object with this ETag and return the new one; None if it changed or is gone.

        It may have been changed by oneself, in a request whose response was lost.
        """
        import obstore  # noqa: PLC0415

        known = _version(etag)
        if self.url.startswith("file:"):
            return self._replace_file(name, body, etag)

        def write() -> str:
            return _etag(obstore.put(self._client, name, body, mode=known))

        try:
            return self._patiently(name, write)
        except (obstore.exceptions.PreconditionError, FileNotFoundError):
            return None

    def _replace_file(self, name: str, body: bytes, etag: str) -> str | None:
        """Replace a file under a lock, since a file system knows no conditions."""
        # One lock file for all names, because nobody would delete those of former leases.
        with lock(Path(self.url.removeprefix("file://")) / "objects"):
            found = self.head(name)
            if found is None or found.etag != etag:
                return None
            return self.put(name, body)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; names that do not exist are no error."""
        import obstore  # noqa: PLC0415

        def delete() -> None:
            try:
                obstore.delete(self._client, [*names])
            except FileNotFoundError:
                if len(names) > 1:
                    self._delete_one_by_one(names)

        if names:
            self._patiently(names[0], delete)

    def _delete_one_by_one(self, names: Sequence[str]) -> None:
        for name in names:
            self.delete([name])

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store.

        Raises:
            FileNotFoundError: there is no such object.
        """
        import obstore  # noqa: PLC0415

        self._patiently(source, lambda: obstore.copy(self._client, source, target))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield all objects below a prefix, such as `labels`, but no mark of the run's folder."""
        import obstore  # noqa: PLC0415

        with explain_store_errors(f"{self.url}/{prefix}"):
            for group in obstore.list(self._client, prefix or None):
                yield from _named(map(_stored, group))

    def list_folder(self, prefix: str) -> tuple["list[str]", "list[StoredObject]"]:
        """Return names of the folders right below a prefix (empty for the run), and its objects."""
        import obstore  # noqa: PLC0415

        found = self._patiently(
            prefix, lambda: obstore.list_with_delimiter(self._client, prefix or None)
        )
        folders = [name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"]]
        return folders, [*_named(map(_stored, found["objects"]))]

    def head(self, name: str) -> StoredObject | None:
        """Return what the store tells about an object; None if there is none."""
        import obstore  # noqa: PLC0415

        try:
            found = self._patiently(
                name, lambda: obstore.get(self._client, name, options={"head": True})
            )
        except FileNotFoundError:
            return None
        attributes: dict[Any, str] = dict(found.attributes)
        return _stored(found.meta, attributes.get(SHA256))

    def probe(self) -> None:
        """Check that the store can be written and honours conditions.

        Raises:
            ConfigError: it ignores `If-None-Match` or `If-Match`, so two processes could each
                believe that they made an artifact.
        """
        name = f"{PROBE}{uuid4().hex}"
        ignored = self._ignored_condition(name)
        self.delete([name])
        if ignored:
            raise ConfigError(
                f"{self.url}: this object store does not honour {ignored}.\n"
                f"  Cause: two processes could replace each other's artifacts unnoticed\n"
                f"  Fix:   use a store with conditional writes, such as Amazon S3, Google Cloud "
                f"Storage, Azure, or SeaweedFS from version 4.48 on."
            )

    def _ignored_condition(self, name: str) -> str:
        """Return the condition that the store does not honour, trying it on one object; or empty.

        What counts is what the object contains in the end: a response may have been lost.
        """
        first = self.create(name, b"1")
        again = self.create(name, b"2")
        found = self.get(name)
        if again is not None or found is None or found[0] != b"1":
            return "If-None-Match"
        etag = first or found[1]
        self.replace(name, b"3", etag)
        stale = self.replace(name, b"4", etag)
        found = self.get(name)
        return "" if stale is None and found is not None and found[0] == b"3" else "If-Match"

    def _patiently(self, name: str, request: Callable[[], Result]) -> Result:
        """Repeat a request whose response was lost or cut, which obstore does not always repeat."""
        import obstore  # noqa: PLC0415

        deadline = time.monotonic() + self._patience_s
        wait_s = 0.1
        with explain_store_errors(f"{self.url}/{name}"):
            while True:
                try:
                    return request()
                except obstore.exceptions.BaseError as error:
                    if not is_transient(error) or time.monotonic() + wait_s > deadline:
                        raise
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, 5.0)


def _etag(meta: Any) -> str:  # noqa: ANN401  PutResult or ObjectMeta
    """Return the opaque ETag: HTTP's, and the version, which Google's conditions need."""
    return f"{meta['e_tag'] or ''}\n{meta['version'] or ''}"


def _http_etag(etag: str) -> str:
    return etag.partition("\n")[0]


def is_same_version(etag: str, other: str) -> bool:
    """Return whether two ETags name the same contents of an object.

    One of them may come from a list: there, Azure leaves out the quotes, and Google the version.
    """
    return _http_etag(etag).strip('"') == _http_etag(other).strip('"')


def _version(etag: str) -> "UpdateVersion":
    # obstore rejects keys whose value is None.
    tag, _, version = etag.partition("\n")
    known: UpdateVersion = {}
    if tag:
        known["e_tag"] = tag
    if version:
        known["version"] = version
    return known


def _named(objects: Iterable[StoredObject]) -> Iterator[StoredObject]:
    """Leave out the object `PREFIX/`, by which consoles and some stores mark an empty folder."""
    return (found for found in objects if found.name)


def _stored(meta: Any, sha256: str | None = None) -> StoredObject:  # noqa: ANN401  ObjectMeta
    return StoredObject(meta["path"], meta["size"], _etag(meta), meta["last_modified"], sha256)
