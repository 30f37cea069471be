"""Tar and Parquet files on an object store, downloaded one by one before they are read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from deepcluster_core.data.contents import DataFile
from deepcluster_core.data.sources.base import SourceImage
from deepcluster_core.data.sources.bookmarks import Bookmark, FileListing
from deepcluster_core.data.sources.downloads import Downloaded, Downloads, Scratch
from deepcluster_core.data.sources.parquet import ParquetSource
from deepcluster_core.data.sources.shard_files import Shard, shard_of
from deepcluster_core.data.sources.shards import TarSource
from deepcluster_core.data.sources.store_files import REQUESTS, StoreFile, fingerprint_stored
from deepcluster_core.store_urls import StoreUrl

Result = TypeVar("Result")

LOOKED_AT = 64
"""Images of the first file that are taken before the next files are downloaded: some callers look
at the first images alone."""


@dataclass
class _Ahead:
    """The downloads of the current listing, for `_looking_ahead`."""

    downloads: Downloads | None = None


class StoreTarSource(TarSource):
    """The images in tar files of a store. The next files are downloaded while one is read."""

    def __init__(self, files: Sequence[StoreFile], scratch: Scratch, **settings: Any) -> None:  # noqa: ANN401
        """Store the arguments; nothing is read yet.

        Args:
            files: the files, sorted by name.
            scratch: where they are downloaded to.
            settings: keyword arguments of `TarSource`.
        """
        shards = _StoreShards(files, scratch)
        super().__init__(shards, **settings)
        self._shards = shards

    def images_after(self, bookmark: Bookmark | None) -> Iterator[SourceImage]:
        """See `ResumableSource`."""
        yield from _looking_ahead(super().images_after(bookmark), self._shards.ahead)

    def files_apart(
        self, numbers: Sequence[int], state: Mapping[str, Any] | None
    ) -> Iterator[FileListing]:
        """See `DividedSource`."""
        for listing in super().files_apart(numbers, state):
            yield replace(listing, images=_looking_ahead(listing.images, self._shards.ahead))


@dataclass
class _StoreShards:
    files: Sequence[StoreFile]
    scratch: Scratch
    ahead: _Ahead = field(default_factory=_Ahead)

    @property
    def first(self) -> DataFile:
        return self.files[0]

    def shards(self) -> list[Shard]:
        return [shard_of(Path(file.name.rpartition("/")[2]), file) for file in self.files]

    def opened(self, shards: Sequence[Shard], numbers: Sequence[int]) -> Iterator[Shard]:
        files = [self.files[number] for number in numbers]
        with closing(Downloads(files, self.scratch)) as downloads:
            self.ahead.downloads = downloads
            for place, number in enumerate(numbers):
                # No name here may refer to the copy, which is deleted when it has been read.
                yield shards[number].downloaded(downloads.take(place))

    def fingerprint(self) -> str:
        return fingerprint_stored("tar", _named(self.files))


class StoreParquetSource(ParquetSource):
    """The rows of Parquet files of a store. Footers are read by themselves."""

    def __init__(
        self,
        place: StoreUrl,
        files: Sequence[StoreFile],
        scratch: Scratch,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        """Read the schemas.

        Args:
            place: the folder, for messages.
            files: the files, sorted by name.
            scratch: where they are downloaded to.
            settings: keyword arguments of `ParquetSource`.
        """
        self._stored = files
        self._scratch = scratch
        self._ahead = _Ahead()
        super().__init__(place, {file.name: file for file in files}, **settings)

    def files_apart(
        self, numbers: Sequence[int], state: Mapping[str, Any] | None
    ) -> Iterator[FileListing]:
        """See `DividedSource`."""
        for listing in super().files_apart(numbers, state):
            yield replace(listing, images=_looking_ahead(listing.images, self._ahead))

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprint_stored("parquet", _named(self._stored))

    def _map(self, function: Callable[[DataFile], Result]) -> Iterator[Result]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from pool.map(function, self._stored)

    def _whole(self, numbers: Sequence[int]) -> Iterator[DataFile]:
        files = [self._stored[number] for number in numbers]
        with closing(Downloads(files, self._scratch)) as downloads:
            self._ahead.downloads = downloads
            for number, file in enumerate(files):
                yield _Copy(file, downloads.take(number))


@dataclass(frozen=True)
class _Copy:
    """A downloaded file, which messages call by its URL."""

    file: StoreFile
    copy: Downloaded

    def __str__(self) -> str:
        return str(self.file)

    @property
    def name(self) -> str:
        return self.file.name

    def open(self, mode: Literal["rb"], /) -> IO[bytes]:
        return self.copy.path.open(mode)

    def stat(self) -> Any:  # noqa: ANN401  a status
        return self.copy.path.stat()


def _named(files: Sequence[StoreFile]) -> Iterator[tuple[str, StoreFile]]:
    for file in files:
        yield file.name, file


def _looking_ahead(images: Iterator[SourceImage], ahead: _Ahead) -> Iterator[SourceImage]:
    """Yield images, and begin to download further files once some have been taken."""
    for number, image in enumerate(images):
        if number == LOOKED_AT and ahead.downloads is not None:
            ahead.downloads.look_ahead()
        yield image
