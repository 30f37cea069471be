"""Room for mirrors: evict files that can be fetched again, the longest unused first.

Only files are evicted that the store has, by a manifest that is published and as it names them, in
artifacts that no process has pinned, and that were not used in the last `GRACE_S` seconds: whoever
fetches a file has that long to open it, and an open file stays readable.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

from deepcluster_core.artifacts.manifest import MANIFEST, Manifest, read_manifest
from deepcluster_core.artifacts.remote.known_objects import KnownObjects
from deepcluster_core.artifacts.remote.pins import alone, unpinned
from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.errors import ArtifactError, NoRoomError
from deepcluster_core.text import readable_size

log = logging.getLogger(__name__)
Result = TypeVar("Result")
STATE = ".mirror"
"""Folder beside a mirror with what is known about its run."""
KNOWN = f"{STATE}/known"
GRACE_S = 30.0
SCAN_S = 30.0
"""Seconds after which the sizes of all mirrors are looked at again: other processes write too."""


@dataclass(frozen=True)
class _Candidate:
    """A file that may be evicted."""

    used: float
    """When it was last used, as Unix time."""
    bytes: int
    path: Path
    above: Path
    """The folder that its mirror lies in."""
    folder: str
    """Name of its artifact's folder in the run."""


class Room:
    """The mirrors of all runs below a scratch folder, and how large they may be together."""

    def __init__(self, place: Path, limit: int | None, *, grace_s: float = GRACE_S) -> None:
        self.place = place
        self.limit = limit
        self._grace_s = grace_s
        self._lock = Lock()
        """Held while room is made: several threads fetch files."""
        self._used = 0
        self._scanned = float("-inf")

    def make(self, needed: int) -> None:
        """Evict files until there are `needed` bytes below the limit.

        Raises:
            NoRoomError: too little can be evicted.
        """
        if self.limit is None:
            return
        if needed > self.limit:
            raise self._no_room(needed, self.limit)
        with self._lock:
            is_old = time.monotonic() > self._scanned + SCAN_S
            if is_old or self._used + needed > self.limit:
                self._scan()
            excess = self._used + needed - self.limit
            if excess > 0 and not self._evicted(excess):
                raise self._no_room(needed, max(0, self.limit - self._used))
            self._used += needed

    def fetching(self, file: str) -> AbstractContextManager[None]:
        """Let one thread of one process fetch a file, by its URL, at a time."""
        return alone(self.place, file)

    def make_on_full_disk(self, needed: int) -> None:
        """Evict `needed` bytes after the disk was found full.

        Raises:
            NoRoomError: too little can be evicted.
        """
        if not self._evicted(needed):
            free = shutil.disk_usage(self.place).free
            raise self._no_room(needed, free, why="the disk is full")

    def repeat_on_full_disk(self, folder: Path, work: Callable[[], Result]) -> Result:
        """Call `work`; if the disk becomes full, evict what may be evicted and call it again.

        How much `work` still needs is not known, and to repeat a stage costs time, so everything
        goes at once.

        Args:
            folder: where `work` writes, for messages.
            work: continues, when it is called again, what it had begun.

        Raises:
            NoRoomError: the disk is full, and there is nothing more to evict.
        """
        while True:
            try:
                with explain_resource_errors(folder):
                    return work()
            except NoRoomError as error:
                freed = self._evict_all()
                if not freed:
                    raise NoRoomError(
                        f"{error}\n"
                        f"  Nothing more can be deleted there that the object store has. Another "
                        f"folder can be given as compute.scratch."
                    ) from error
            log.warning(
                "%s: the disk is full; deleted %s that the object store has, and going on",
                folder,
                readable_size(freed),
            )

    def trim(self) -> None:
        """Evict what is above the limit, as far as possible."""
        if self.limit is None:
            return
        with self._lock:
            self._scan()
            if self._used > self.limit:
                self._evicted(self._used - self.limit)

    def _scan(self) -> None:
        self._used = 0
        for folder, _, names in os.walk(self.place):
            for name in names:
                with suppress(OSError):  # deleted meanwhile
                    self._used += os.lstat(f"{folder}/{name}").st_size
        self._scanned = time.monotonic()

    def _evicted(self, excess: int) -> bool:
        """Evict files of at least this size together; wait for those that were just used."""
        deadline = time.monotonic() + self._grace_s + 1.0
        while True:
            candidates = sorted(self._candidates(), key=lambda found: found.used)
            excess -= self._evict_oldest(candidates, excess)
            if excess <= 0:
                return True
            if time.monotonic() > deadline or sum(one.bytes for one in candidates) < excess:
                return False
            time.sleep(min(1.0, self._grace_s / 10))

    def _evict_all(self) -> int:
        """Evict all files that may be evicted; return their size.

        Files that were just used are waited for if there are no others.
        """
        deadline = time.monotonic() + self._grace_s + 1.0
        while True:
            candidates = [*self._candidates()]
            freed = self._evict_oldest(candidates, sum(found.bytes for found in candidates))
            if freed or time.monotonic() > deadline or not any(map(_is_unpinned, candidates)):
                return freed
            time.sleep(min(1.0, self._grace_s / 10))

    def _evict_oldest(self, candidates: list[_Candidate], wanted: int) -> int:
        """Evict files, in this order, until they have the wanted size; return their size."""
        freed = 0
        for found in candidates:
            if freed >= wanted:
                break
            is_unused = time.time() > found.used + self._grace_s
            if is_unused and self._evict(found):
                freed += found.bytes
        self._used -= freed
        return freed

    def _candidates(self) -> Iterator[_Candidate]:
        for run in self.place.glob("*/*/"):
            if run.name == STATE:
                continue
            known = KnownObjects(run.parent / KNOWN)
            for path in run.rglob(MANIFEST):
                folder = path.parent.relative_to(run).as_posix()
                manifest = _published(path, f"{folder}/{MANIFEST}", known)
                if manifest is not None:
                    yield from _files(path.parent, manifest, run.parent, folder)

    def _evict(self, found: _Candidate) -> bool:
        with unpinned(found.above, found.folder) as is_unused:
            if is_unused:
                found.path.unlink(missing_ok=True)
            return is_unused

    def _no_room(self, needed: int, free: int, why: str = "") -> NoRoomError:
        why = why or f"compute.scratch_bytes={self.limit}"
        return NoRoomError(
            f"{self.place}: there is no room for {readable_size(needed)} "
            f"({readable_size(free)} free; {why}).\n"
            f"  Cause: all other files there are in use, or not yet on the object store\n"
            f"  Fix:   make room on that disk, set a larger compute.scratch_bytes, or another "
            f"folder as compute.scratch; the same command then continues."
        )


def _is_unpinned(found: _Candidate) -> bool:
    with unpinned(found.above, found.folder) as is_unused:
        return is_unused


def _published(path: Path, name: str, known: KnownObjects) -> Manifest | None:
    """Return a manifest whose artifact the store has, or None."""
    with suppress(OSError, ArtifactError):
        if known.is_published(name, path.read_bytes()):
            return read_manifest(path.parent)
    return None


def _files(place: Path, manifest: Manifest, above: Path, folder: str) -> Iterator[_Candidate]:
    """Yield the files of an artifact that are as its manifest names them."""
    for name, record in manifest.files.items():
        with suppress(OSError):
            found = os.lstat(f"{place}/{name}")
            if (found.st_size, found.st_mtime_ns) == (record.bytes, record.mtime_ns):
                yield _Candidate(found.st_atime, record.bytes, place / name, above, folder)


def mark_used(path: Path) -> None:
    """Record that a file is used now, as its time of access; its time of change stays."""
    with suppress(OSError):
        found = path.stat()
        if time.time() > found.st_atime + GRACE_S / 3:
            os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
