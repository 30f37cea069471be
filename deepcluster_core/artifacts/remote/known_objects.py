"""What a mirror knows about its run on the store: kept beside the run's folder.

Nothing here is needed to read a run: if it is lost, manifests are read again from the store.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.files import write_atomically


@dataclass(frozen=True)
class KnownObject:
    """A small object of the store as this mirror has last read or written it."""

    etag: str
    sha256: str
    """Of its contents, in hexadecimal."""


class KnownObjects:
    """The known objects of a mirror, by name; a file for each, so that processes can share them."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def get(self, name: str) -> KnownObject | None:
        """Return what is known about an object."""
        # Not from the cache alone: another process may have written the object since.
        with suppress(OSError, ValueError, TypeError):
            return KnownObject(**json.loads(self._path(name).read_bytes()))
        return None

    def put(self, name: str, body: bytes, etag: str) -> None:
        """Record that the store has these contents under this ETag."""
        known = KnownObject(etag, sha256_of(body))
        if self.get(name) == known:
            return
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(known)).encode())

    def forget(self, name: str) -> None:
        """Forget an object."""
        self._path(name).unlink(missing_ok=True)

    def is_published(self, name: str, body: bytes) -> bool:
        """Return whether the store had an object with just these contents when last asked."""
        known = self.get(name)
        return known is not None and known.sha256 == sha256_of(body)

    def uploads(self, folder: str) -> dict[str, str]:
        """Return the SHA-256 of files that an earlier attempt has uploaded, by name."""
        found: dict[str, str] = {}
        with suppress(OSError, ValueError):
            for line in self._uploads(folder).read_text(encoding="utf-8").splitlines():
                entry: Any = json.loads(line)
                found[entry["name"]] = entry["sha256"]
        return found

    def add_upload(self, folder: str, name: str, sha256: str) -> None:
        """Record an uploaded file; a hint only, which is checked against the store."""
        path = self._uploads(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "sha256": sha256}) + "\n")

    def forget_uploads(self, folder: str) -> None:
        """Forget the uploads of an artifact, which is committed or withdrawn."""
        self._uploads(folder).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._place / f"{name}.json"

    def _uploads(self, folder: str) -> Path:
        return self._place / folder / "uploads.jsonl"


def sha256_of(body: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()
