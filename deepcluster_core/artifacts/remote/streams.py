"""Contents of large objects on their way, part by part, and how far they have come."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deepcluster_core.artifacts.remote.client import AGAIN, is_transient
from deepcluster_core.errors import StoreError

if TYPE_CHECKING:
    from obstore import GetResult

PART_BYTES = 8 << 20
"""Size of the parts of large uploads."""


class Download:
    """The bytes of an object that have arrived so far."""

    def __init__(
        self,
        open_at: "Callable[[int, str | None], GetResult]",
        where: str,
        write: Callable[[bytes], int],
        seen: Callable[[bytes], None] | None,
    ) -> None:
        self.received = 0
        self.is_complete = False
        self.last_progress = time.monotonic()
        self._open_at, self._where = open_at, where
        self._write, self._seen = write, seen
        self._etag: str | None = None

    def go_on(self, *, last_try: bool) -> None:
        """Read on from where the last answer ended; return if that ends early as well."""
        import obstore  # noqa: PLC0415

        try:
            found = self._open_at(self.received, self._etag)
            total = found.meta["size"]
            self._etag = found.meta["e_tag"]
            for chunk in found.stream(min_chunk_size=1 << 20):
                data = bytes(chunk)
                self._write(data)
                self.received += len(data)
                self.last_progress = time.monotonic()
                if self._seen is not None:
                    self._seen(data)
            self.is_complete = self.received == total
        except obstore.exceptions.BaseError as error:
            # The object that takes its place may also be too short to be continued.
            is_replaced = isinstance(error, obstore.exceptions.PreconditionError)
            if is_replaced or "status code: 416" in str(error):
                raise StoreError(
                    f"{self._where}: was replaced while it was read.\n  Fix: {AGAIN}"
                ) from None
            if last_try or not is_transient(error):
                raise
            time.sleep(0.2)


class FileParts:
    """The contents of a file, read part by part, and how much was read."""

    def __init__(self, path: Path, sent: Callable[[int], None] | None) -> None:
        self._path, self._sent = path, sent or (lambda _: None)
        self._read = 0

    def again(self) -> bytes | Iterator[bytes]:
        """Return the contents from the beginning; of a large file, an iterator of parts."""
        self._sent(-self._read)
        self._read = 0
        # What fits into one part is sent in one request.
        if self._path.stat().st_size > PART_BYTES:
            return self._parts()
        body = self._path.read_bytes()
        self._count(body)
        return body

    def _parts(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while part := file.read(PART_BYTES):
                self._count(part)
                yield part

    def _count(self, part: bytes) -> None:
        self._read += len(part)
        self._sent(len(part))
