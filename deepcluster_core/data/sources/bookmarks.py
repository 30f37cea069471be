"""Sources that are read file by file: from a place on, or each file apart from the others."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class FileListing:
    """The images of one file of a source, listed without the files before it."""

    number: int
    """Number of the file in the source, from 0."""
    images: Iterator[SourceImage]
    found: Callable[[], dict[str, Any]]
    """Returns, after the last image, what the source has found out in this file, as JSON values."""


@runtime_checkable
class DividedSource(ResumableSource, Protocol):
    """A source whose files several ranks can list, each its own ones.

    What is found out in the files is joined in their order, and the result is that of one listing.
    """

    @property
    def num_files(self) -> int:
        """The number of files."""
        ...

    def files_apart(
        self, numbers: Sequence[int], state: Mapping[str, Any] | None
    ) -> Iterator[FileListing]:
        """Yield a listing of each of some files; it must be read before the next one is taken.

        No other file is read as a whole.

        Args:
            numbers: numbers of the files, increasing.
            state: the state of a bookmark, or of `joined`, that is known; None at the beginning.
        """
        ...

    def joined(
        self, state: Mapping[str, Any] | None, number: int, found: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Return the state of a bookmark after a file.

        Args:
            state: the state after all files before it; None at the beginning.
            number: number of the file.
            found: what its `FileListing` has found.

        Returns:
            The state. None if the files before it change what its images are: then it has to be
            listed again, with `state`.

        Raises:
            SourceError: the file contradicts the files before it.
        """
        ...

    def finish(self, state: Mapping[str, Any] | None) -> None:
        """Set the `notes` to those of all files, after the last one.

        Raises:
            ConfigError: no image is taken from any of them.
        """
        ...


def last_before(bookmarks: deque[Bookmark], num_images: int) -> Bookmark | None:
    """Return the last of the bookmarks with at most `num_images` before it; drop earlier ones."""
    while len(bookmarks) > 1 and bookmarks[1].num_images <= num_images:
        bookmarks.popleft()
    is_before = bookmarks and bookmarks[0].num_images <= num_images
    return bookmarks[0] if is_before else None
