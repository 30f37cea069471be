"""Divide a source into units that ranks read: whole tar or Parquet files, or blocks of images."""

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from deepcluster_core.data.sources import SourceImage
from deepcluster_core.data.sources.bookmarks import (
    Bookmark,
    DividedSource,
    FileListing,
    last_before,
)
from stages.packed_images import groups
from stages.saved_index import SavedIndex

BLOCK_IMAGES = 512
"""Images in a block: at 50 kB an image, a file of 26 MB."""


@dataclass(frozen=True)
class Group:
    """Images of a unit that a worker decodes at once."""

    unit: int
    images: list[SourceImage]
    found: dict[str, Any] | None = None
    """What the source has found out in the unit; only at its end, which has no images."""


class Units(Protocol):
    """A source that is divided into units, numbered in its order."""

    first: int
    """Number of the first unit that is not saved as a whole."""

    def groups(self, rank: int, size: int) -> Iterator[Group]:
        """Yield the images of the units of a rank, each followed by its end."""
        ...

    def join(self, number: int, found: dict[str, Any]) -> bool:
        """Continue after a unit; return False if it has to be read `again` first."""
        ...

    def again(self, number: int) -> Iterator[Group]:
        """Yield the images of a unit, and its end, with what the units before it have found."""
        ...

    def end(self, number: int, num_images: int) -> None:
        """Note that a unit, with so many images, is written."""
        ...

    def finish(self) -> None:
        """Check what can be checked after the last unit only."""
        ...

    def listed(self) -> str:
        """Return what was listed, in words, after the last group; all ranks must agree on it."""
        ...

    def bookmark(self, num_images: int) -> Bookmark | None:
        """Return a place in the source with at most this number of images before it."""
        ...


class Blocks:
    """Blocks of the images of any source, which all ranks list as a whole."""

    first = 0

    def __init__(self, images: Iterator[SourceImage]) -> None:
        self._images = images
        self._num_images = 0
        self._crc32 = 0

    def groups(self, rank: int, size: int) -> Iterator[Group]:
        """See `Units`."""
        number = 0
        while block := list(islice(self._images, BLOCK_IMAGES)):
            for image in block:
                self._crc32 = zlib.crc32(image.path.encode(), self._crc32)
            self._num_images += len(block)
            if number % size == rank:
                for images in groups(iter(block)):
                    yield Group(number, images)
                yield Group(number, [], {})
            number += 1

    def join(self, number: int, found: dict[str, Any]) -> bool:
        """See `Units`."""
        return True

    def again(self, number: int) -> Iterator[Group]:
        """See `Units`."""
        raise AssertionError("blocks are never read again")

    def end(self, number: int, num_images: int) -> None:
        """See `Units`."""

    def finish(self) -> None:
        """See `Units`."""

    def listed(self) -> str:
        """See `Units`."""
        return f"{self._num_images:,} images, the CRC-32 of whose paths is {self._crc32:08x}"

    def bookmark(self, num_images: int) -> Bookmark | None:
        """See `Units`."""
        return None  # the first rank's own listing may be behind what is written


class Files:
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

    def groups(self, rank: int, size: int) -> Iterator[Group]:
        """See `Units`."""
        numbers = range(self.first + rank, self._source.num_files, size)
        return self._groups_of(numbers)

    def again(self, number: int) -> Iterator[Group]:
        """See `Units`."""
        return self._groups_of([number])

    def _groups_of(self, numbers: Sequence[int]) -> Iterator[Group]:
        for listing in self._source.files_apart(numbers, self._state):
            for images in groups(self._unsaved(listing)):
                yield Group(listing.number, images)
            yield Group(listing.number, [], listing.found())

    def _unsaved(self, listing: FileListing) -> Iterator[SourceImage]:
        num_saved = self._num_saved if listing.number == self.first else 0
        return islice(listing.images, num_saved, None)

    def join(self, number: int, found: dict[str, Any]) -> bool:
        """See `Units`."""
        state = self._source.joined(self._state, number, found)
        if state is None:
            return False
        self._state = state
        return True

    def end(self, number: int, num_images: int) -> None:
        """See `Units`."""
        assert self._state is not None
        self._num_images += num_images + (self._num_saved if number == self.first else 0)
        self._bookmarks.append(Bookmark(number + 1, self._num_images, self._state))

    def finish(self) -> None:
        """See `Units`."""
        self._source.finish(self._state)

    def listed(self) -> str:
        """See `Units`."""
        return f"{self._source.num_files:,} files"

    def bookmark(self, num_images: int) -> Bookmark | None:
        """See `Units`."""
        return last_before(self._bookmarks, num_images)
