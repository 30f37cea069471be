"""One client for S3, Google Cloud Storage and Azure; the only module that knows obstore."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Literal


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
    sha256: str | None
    """What the uploader said about the contents; only from `head`, never from `list`."""


class Store:
    """A prefix of a bucket; names are relative to it, with slashes. One client a process and URL.

    Every method raises `StoreError` (an ArtifactError) if the store cannot be reached, refuses the
    credentials or keeps failing; requests are repeated within a bounded time before that.
    """

    def __init__(self, url: str) -> None:
        raise NotImplementedError

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Return contents and ETag of an object; None if there is none."""
        raise NotImplementedError

    def get_if_changed(
        self, name: str, etag: str
    ) -> tuple[bytes, str] | Literal[Unchanged.UNCHANGED] | None:
        """Return contents and ETag unless the object still has this ETag; None if there is none."""
        raise NotImplementedError

    def download(self, name: str, to: Path) -> None:
        """Stream an object into the file `to`, which the caller renames when it has checked it.

        Raises:
            FileNotFoundError: there is no such object.
        """
        raise NotImplementedError

    def put(self, name: str, body: bytes | Path, *, sha256: str | None = None) -> str:
        """Write an object, whatever was there; return its ETag."""
        raise NotImplementedError

    def create(self, name: str, body: bytes) -> str | None:
        """Write an object and return its ETag; None if one exists (it may be one's own, from a
        request whose response was lost)."""
        raise NotImplementedError

    def replace(self, name: str, body: bytes, etag: str) -> str | None:
        """Replace the object with this ETag and return the new one; None if it has changed or is
        gone (it may have been changed by oneself, in a request whose response was lost)."""
        raise NotImplementedError

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; names that do not exist are no error."""
        raise NotImplementedError

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store."""
        raise NotImplementedError

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield all objects below a prefix, such as `labels`."""
        raise NotImplementedError

    def list_folder(self, prefix: str) -> tuple[list[str], list[StoredObject]]:
        """Return names of the folders right below a prefix (empty for the run), and its objects."""
        raise NotImplementedError

    def head(self, name: str) -> StoredObject | None:
        """Return what the store tells about an object; None if there is none."""
        raise NotImplementedError

    def probe(self) -> None:
        """Check that the store can be written and honours conditions.

        Raises:
            ConfigError: it ignores `If-None-Match` or `If-Match`, so two processes could each
                believe that they made an artifact.
        """
        raise NotImplementedError
