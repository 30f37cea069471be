"""Read the images of an index in one process, or divided among ranks, with the same result.

With several ranks, the source is divided into units: whole tar or Parquet files, or blocks of
images of everything else. Rank r decodes and packs the units r, r + R and so on, into a file for
each. The first rank reads these files in the order of the units, so that it writes what a single
process would write.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from deepcluster_core.artifacts.outcomes import Outcome, OutcomeWriter, read_outcomes, unit_path
from deepcluster_core.context import Context
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.data.sources.bookmarks import (
    Bookmark,
    DividedSource,
    FileListing,
    ResumableSource,
    last_before,
)
from stages.chosen_images import Choice
from stages.packed_images import Reading, groups
from stages.saved_index import SavedIndex

BLOCK_IMAGES = 512
"""Images in a block: at 50 kB an image, a file of 26 MB."""
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
    # With fewer files than ranks, some ranks would have nothing to do.
    if size > 1 and whole_files is not None and whole_files.num_files >= size:
        files = _Files(whole_files, saved)
        return choice.source.count(), _Together(files, reading, context, folder)
    total, images = choice.images(saved)
    if size == 1:
        return total, _Alone(choice, images, reading, context)
    return total, _Together(_Blocks(choice, images), reading, context, folder)


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
        return _bookmark(self.choice, num_images)


def _bookmark(choice: Choice, num_images: int) -> Bookmark | None:
    source = choice.source
    return source.bookmark(num_images) if isinstance(source, ResumableSource) else None


@dataclass(frozen=True)
class _Group:
    """Images of a unit that a worker decodes at once."""

    unit: int
    images: list[SourceImage]
    found: dict[str, Any] | None = None
    """What the source has found out in the unit; only at its end, which has no images."""


class _Units(Protocol):
    """A source that is divided into units, numbered in its order."""

    first: int
    """Number of the first unit that is not saved as a whole."""

    def groups(self, rank: int, size: int) -> Iterator[_Group]:
        """Yield the images of the units of a rank, each followed by its end."""
        ...

    def join(self, number: int, found: dict[str, Any]) -> bool:
        """Continue after a unit; return False if it has to be read `again` first."""
        ...

    def again(self, number: int) -> Iterator[_Group]:
        """Yield the images of a unit, and its end, with what the units before it have found."""
        ...

    def end(self, number: int, num_images: int) -> None:
        """Note that a unit, with so many images, is written."""
        ...

    def finish(self) -> None:
        """Check what can be checked after the last unit only."""
        ...

    def bookmark(self, num_images: int) -> Bookmark | None:
        """Return a place in the source with at most this number of images before it."""
        ...


class _Blocks:
    """Blocks of the images of any source, which all ranks list as a whole."""

    first = 0

    def __init__(self, choice: Choice, images: Iterator[SourceImage]) -> None:
        self._choice = choice
        self._images = images

    def groups(self, rank: int, size: int) -> Iterator[_Group]:
        number = 0
        while block := list(islice(self._images, BLOCK_IMAGES)):
            if number % size == rank:
                for images in groups(iter(block)):
                    yield _Group(number, images)
                yield _Group(number, [], {})
            number += 1

    def join(self, number: int, found: dict[str, Any]) -> bool:
        return True

    def again(self, number: int) -> Iterator[_Group]:
        raise AssertionError("blocks are never read again")

    def end(self, number: int, num_images: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def bookmark(self, num_images: int) -> Bookmark | None:
        return _bookmark(self._choice, num_images)


class _Files:
    """The files of a source, of which each rank lists its own ones."""

    def __init__(self, source: DividedSource, saved: SavedIndex | None) -> None:
        self._source = source
        place = saved.bookmark if saved is not None else None
        start = place or Bookmark(0, 0, {})
        num_saved = saved.save.seen if saved is not None else 0
        self.first = start.num_files
        self._num_saved = num_saved - start.num_images
        """Images of the first file that are saved."""
        self._num_images = start.num_images
        self._state = place.state if place is not None else None
        self._bookmarks = deque(() if place is None else (place,))

    def groups(self, rank: int, size: int) -> Iterator[_Group]:
        numbers = range(self.first + rank, self._source.num_files, size)
        return self._groups_of(numbers)

    def again(self, number: int) -> Iterator[_Group]:
        return self._groups_of([number])

    def _groups_of(self, numbers: Sequence[int]) -> Iterator[_Group]:
        for listing in self._source.files_apart(numbers, self._state):
            for images in groups(self._unsaved(listing)):
                yield _Group(listing.number, images)
            yield _Group(listing.number, [], listing.found())

    def _unsaved(self, listing: FileListing) -> Iterator[SourceImage]:
        num_saved = self._num_saved if listing.number == self.first else 0
        return islice(listing.images, num_saved, None)

    def join(self, number: int, found: dict[str, Any]) -> bool:
        state = self._source.joined(self._state, number, found)
        if state is None:
            return False
        self._state = state
        return True

    def end(self, number: int, num_images: int) -> None:
        assert self._state is not None
        self._num_images += num_images + (self._num_saved if number == self.first else 0)
        self._bookmarks.append(Bookmark(number + 1, self._num_images, self._state))

    def finish(self) -> None:
        self._source.finish(self._state)

    def bookmark(self, num_images: int) -> Bookmark | None:
        return last_before(self._bookmarks, num_images)


@dataclass(frozen=True)
class _Report:
    """What a rank reports in a meeting."""

    ended: dict[int, dict[str, Any]]
    """Units whose files are whole since the last meeting, and what was found in them."""
    is_exhausted: bool
    """Whether it has no more units."""


@dataclass(frozen=True)
class _Status:
    """What the first rank answers."""

    num_written: int
    """Number of the first unit that is not written as a whole."""
    is_done: bool


class _Together:
    """Outcomes of images that several ranks decode."""

    def __init__(self, units: _Units, reading: Reading, context: Context, folder: Path) -> None:
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
        self._is_any_left = True
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
            report = _Report(self._ended, self._is_exhausted)
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

    def _decode(self, own: Iterator[_Group]) -> Iterator[tuple[_Group, list[Outcome]]]:
        def decoded(group: _Group) -> tuple[_Group, list[Outcome]]:
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
            self._is_any_left = not all(report.is_exhausted for report in reports)

    def _status(self) -> _Status:
        is_done = not self._is_any_left and self._num_written == self._num_units
        return _Status(self._num_written, is_done)

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
