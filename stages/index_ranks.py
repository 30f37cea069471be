"""Read the images of an index in one process, or divided among ranks, with the same result.

With several ranks, the source is divided into units: whole tar or Parquet files, or blocks of
images of everything else. Rank r decodes and packs the units r, r + R and so on, into a file for
each. The first rank reads these files in the order of the units, so that it writes what a single
process would write.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deepcluster_core.artifacts.outcomes import Outcome, OutcomeWriter, read_outcomes, unit_path
from deepcluster_core.context import Context
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.data.sources.bookmarks import Bookmark, ResumableSource
from deepcluster_core.errors import SourceError
from stages.chosen_images import Choice
from stages.index_units import Blocks, Files, Group, Units
from stages.packed_images import Reading, groups
from stages.saved_index import SavedIndex

MEETING_S = 1.0
"""Seconds between two meetings of the ranks. They need no more time for each other than that, so
that ranks of different speed stay within the time limit of a call."""
UNITS_AHEAD = 2
"""Units that each rank may be ahead of what the first one writes. It limits the disk they take."""


class Outcomes(Protocol):
    """The outcomes of all images that are not saved yet."""

    def read(self) -> Iterator[list[Outcome]]:
        """Yield the outcomes, in the order of the source, on the first rank; nothing on others.

        All ranks must read the iterator to its end.
        """
        ...

    def bookmark(self, num_images: int) -> Bookmark | None:
        """Return a place in the source with at most this number of images before it."""
        ...


def outcomes_of(
    choice: Choice,
    reading: Reading,
    context: Context,
    *,
    saved: SavedIndex | None,
    folder: Path,
) -> tuple[int | None, Outcomes]:
    """Return the number of images, None if it is unknown, and their outcomes.

    Args:
        choice: the images.
        reading: how they are decoded and packed.
        context: ranks and workers.
        saved: what an earlier attempt has saved.
        folder: folder of the artifact.
    """
    size = context.ranks.size
    whole_files = choice.whole_files()
    # Without a bookmark, nobody knows in which file the saved images end.
    is_place_known = saved is None or saved.bookmark is not None
    # With fewer files than ranks, some ranks would have nothing to do.
    has_enough_files = whole_files is not None and whole_files.num_files >= size
    if size > 1 and whole_files is not None and has_enough_files and is_place_known:
        files = Files(whole_files, saved)
        return choice.source.count(), _Together(files, reading, context, folder)
    total, images = choice.images(saved)
    if size == 1:
        return total, _Alone(choice, images, reading, context)
    return total, _Together(Blocks(images), reading, context, folder)


@dataclass(frozen=True)
class _Alone:
    """Outcomes of images that this process decodes."""

    choice: Choice
    images: Iterator[SourceImage]
    reading: Reading
    context: Context

    def read(self) -> Iterator[list[Outcome]]:
        # Workers decode in parallel; only this thread writes, in the order of the source.
        return ordered_map(self.reading.all_of, groups(self.images), workers=self.context.workers)

    def bookmark(self, num_images: int) -> Bookmark | None:
        source = self.choice.source
        return source.bookmark(num_images) if isinstance(source, ResumableSource) else None


@dataclass(frozen=True)
class _Report:
    """What a rank reports in a meeting."""

    ended: dict[int, dict[str, Any]]
    """Units whose files are whole since the last meeting, and what was found in them."""
    listed: str | None
    """What it has listed, if it has no more units; see `Units`."""


@dataclass(frozen=True)
class _Status:
    """What the first rank answers."""

    num_written: int
    """Number of the first unit that is not written as a whole."""
    is_done: bool


class _Together:
    """Outcomes of images that several ranks decode."""

    def __init__(self, units: Units, reading: Reading, context: Context, folder: Path) -> None:
        self._units = units
        self._reading = reading
        self._workers = context.workers
        self._ranks = context.ranks
        self._folder = folder
        own = units.groups(self._ranks.rank, self._ranks.size)
        self._decoded = self._decode(own)
        self._own = units.first + self._ranks.rank
        """Number of this rank's current unit."""
        self._file: OutcomeWriter | None = None
        self._ended: dict[int, dict[str, Any]] = {}
        self._is_exhausted = False
        self._num_written = units.first
        # On the first rank only:
        self._found: dict[int, dict[str, Any]] = {}
        self._num_units = units.first
        self._listed: list[str | None] = [None]
        """What each rank has listed; None for one that has more units."""
        self._in_order = self._in_order_of_units()

    def bookmark(self, num_images: int) -> Bookmark | None:
        return self._units.bookmark(num_images)

    def read(self) -> Iterator[list[Outcome]]:
        ranks = self._ranks
        while True:
            yield from self._work()
            # All wait here for the first rank without a time limit, and then not long.
            status = ranks.on_first(self._status, "written units of the index")
            self._num_written = status.num_written
            if status.is_done:
                break
            listed = self._units.listed() if self._is_exhausted else None
            report = _Report(self._ended, listed)
            self._take(ranks.gather(report, "units of the index") or [])
            self._ended = {}
        ranks.on_first(self._units.finish, "end of the source")

    def _work(self) -> Iterator[list[Outcome]]:
        """Decode until the next meeting; on the first rank, also yield what is ready."""
        deadline = time.monotonic() + MEETING_S
        has_work = True
        while has_work and time.monotonic() < deadline:
            has_work = self._decode_group()
            if self._ranks.rank != 0:
                continue
            # A group of each rank, so that the first one keeps up with the others.
            for _ in range(self._ranks.size + 1):
                outcomes = next(self._in_order)
                if outcomes is None:
                    break
                has_work = True
                yield outcomes

    def _decode(self, own: Iterator[Group]) -> Iterator[tuple[Group, list[Outcome]]]:
        def decoded(group: Group) -> tuple[Group, list[Outcome]]:
            return group, self._reading.all_of(group.images)

        return ordered_map(decoded, own, workers=self._workers)

    def _decode_group(self) -> bool:
        """Write the next group into the file of its unit; return False if there is none now."""
        limit = self._num_written + UNITS_AHEAD * self._ranks.size
        if self._is_exhausted or self._own >= limit:
            return False
        group, outcomes = next(self._decoded, (None, []))
        if group is None:
            self._is_exhausted = True
            return False
        if self._file is None:
            self._file = OutcomeWriter(unit_path(self._folder, group.unit))
        if group.found is None:
            self._file.add(outcomes)
            return True
        self._file.close()
        self._file = None
        self._ended[group.unit] = group.found
        self._own = group.unit + self._ranks.size
        return True

    def _take(self, reports: list[_Report]) -> None:
        for report in reports:
            self._found |= report.ended
        if reports:
            self._num_units = max([self._num_units, *(number + 1 for number in self._found)])
            self._listed = [report.listed for report in reports]

    def _status(self) -> _Status:
        """Return what the others need to know.

        Raises:
            SourceError: not all ranks have listed the same.
        """
        if None in self._listed:
            return _Status(self._num_written, is_done=False)
        for rank, listed in enumerate(self._listed):
            if listed != self._listed[0]:
                raise SourceError(
                    f"dataset.source: rank {rank} finds {listed}, but rank 0 finds "
                    f"{self._listed[0]}.\n"
                    f"  Cause: different files under one path on two machines, or files that "
                    f"change\n"
                    f"  Fix:   give all machines one file system, or the same files."
                )
        return _Status(self._num_written, self._num_written == self._num_units)

    def _in_order_of_units(self) -> Iterator[list[Outcome] | None]:
        """Yield the outcomes of all units in order; None whenever the next one is not ready."""
        while True:
            number = self._num_written
            found = self._found.pop(number, None)
            if found is None:
                yield None
                continue
            num_images = 0
            for outcomes in self._of_unit(number, found):
                num_images += len(outcomes)
                yield outcomes
            unit_path(self._folder, number).unlink()
            self._units.end(number, num_images)
            self._num_written += 1

    def _of_unit(self, number: int, found: dict[str, Any]) -> Iterator[list[Outcome]]:
        if self._units.join(number, found):
            yield from read_outcomes(unit_path(self._folder, number))
            return
        for group, outcomes in self._decode(self._units.again(number)):
            if group.found is None:
                yield outcomes
            else:
                is_joined = self._units.join(number, group.found)
                assert is_joined, "it was listed with what the units before it have found"
