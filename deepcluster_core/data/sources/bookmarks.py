"""Places in a source from which a listing can continue without reading what comes before."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from deepcluster_core.data.sources.base import SourceImage


@dataclass(frozen=True)
class Bookmark:
    """The end of a shard, or of another file that holds many images."""

    num_files: int
    """Files before this place."""
    num_images: int
    """Images before this place."""
    state: dict[str, Any]
    """What the source has found out in the files before, as JSON values."""

    def values(self) -> dict[str, Any]:
        """Return the bookmark as JSON values, from which it can be made again."""
        return asdict(self)


@runtime_checkable
class ResumableSource(Protocol):
    """A source of files that hold many images. What `images` does is `images_after(None)`."""

    def images_after(self, bookmark: Bookmark | None) -> Iterator[SourceImage]:
        """Yield the images after a place; the files before it are not opened."""
        ...

    def bookmark(self, num_images: int) -> Bookmark | None:
        """Return the last place with at most this number of images before it, if there is one.

        Earlier places are forgotten.
        """
        ...


def last_before(bookmarks: deque[Bookmark], num_images: int) -> Bookmark | None:
    """Return the last of the bookmarks with at most `num_images` before it; drop earlier ones."""
    while len(bookmarks) > 1 and bookmarks[1].num_images <= num_images:
        bookmarks.popleft()
    is_before = bookmarks and bookmarks[0].num_images <= num_images
    return bookmarks[0] if is_before else None
