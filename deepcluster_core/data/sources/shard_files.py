"""A tar file of images: its members, the tar files in it, and whether it holds one class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tarfile import TarInfo
from typing import Protocol

from deepcluster_core.data.contents import DataFile
from deepcluster_core.data.sources.base import displayed, fingerprint_files
from deepcluster_core.data.sources.compressed import (
    UnpackedTar,
    is_compressed,
    streamed_names,
)
from deepcluster_core.data.sources.downloads import Downloaded
from deepcluster_core.data.sources.samples import CLASS_FILE, Member, is_class_file, split_name
from deepcluster_core.data.sources.tar import harmless, members, read_member


@dataclass(frozen=True)
class Shard:
    """A tar file, or a tar file that is a member of another one."""

    file: Path
    """The file on disk, which for an inner tar file is the outer one. For a shard on a store, only
    the result of `fetched` has one."""
    shown: str
    """Path as shown to users."""
    stem: str
    """Name without folders and without `.tar`."""
    start: int = 0
    """Offset in `file` at which the archive begins."""
    end: int | None = None
    """Offset in `file` at which the archive ends; None for the end of the file."""
    stored: DataFile | None = None
    """The file on a store that this is, or a copy of."""
    unpacked_from: Path | None = None
    """The compressed file that `file` was unpacked from, if any."""
    held: UnpackedTar | Downloaded | None = None
    """Keeps the unpacked or downloaded file on disk."""

    @property
    def origin(self) -> Path | DataFile:
        """The file that the user has."""
        return self.stored or self.unpacked_from or self.file

    def downloaded(self, copy: Downloaded) -> "Shard":
        """Return the shard as a copy on disk."""
        return replace(self, file=copy.path, held=copy)

    def unpacked(self) -> "Shard":
        """Return the shard itself, or one that can be read in place if it is compressed.

        Raises:
            SourceError: it cannot be unpacked.
        """
        if not is_compressed(self.file):
            return self
        held = UnpackedTar(self.file, shown=self.origin)
        return replace(self, file=held.path, unpacked_from=self.file, held=held)

    def listed(self) -> Iterator[Member]:
        """Yield the members in stored order."""
        for info in members(self.file, start=self.start, end=self.end, shown=self.origin):
            yield self._member(info)

    @staticmethod
    def _member(info: TarInfo) -> Member:
        name = harmless(info.name)
        key, extension = split_name(name)
        return Member(name, key, extension, info.offset_data, info.size)

    def read(self, member: Member) -> bytes:
        """Return the contents of a member; raise OSError with the reason."""
        return read_member(self.file, member.offset, member.size)

    def path_of(self, member: Member) -> str:
        """Return the path of a member as shown to users."""
        return f"{self.shown}/{displayed(member.name)}"

    def holds_one_class(self) -> bool | None:
        """Return whether the first picture is named as in a class; None without pictures."""
        # The first picture is enough, since listing a whole shard takes long.
        for member in self._named():
            if member.is_picture:
                return is_class_file(self.stem, member.name)
        return None

    def _named(self) -> Iterator[Member]:
        """Yield the members as far as they are needed by name, without unpacking all of them."""
        # What is still on a store is read by parts.
        is_stored = self.stored is not None and self.held is None
        file = self.origin if is_stored else self.file
        if not is_compressed(self.file):
            for info in members(file, start=self.start, end=self.end, shown=self.origin):
                yield self._member(info)
            return
        for raw_name in streamed_names(file):
            name = harmless(raw_name)
            yield Member(name, *split_name(name), 0, 0)

    def inner(self, member: Member) -> "Shard":
        """Return the tar file that is a member of this one."""
        file_name = member.name.rpartition("/")[2]
        stem = file_name.rpartition(".")[0]
        end = member.offset + member.size
        shown = self.path_of(member)
        return replace(self, shown=shown, stem=stem, start=member.offset, end=end)


def shard_of(file: Path, stored: DataFile | None = None) -> Shard:
    """Return the shard in a file; for one on a store, `file` has its name alone."""
    stem = file.stem.removesuffix(".tar") if is_compressed(file) else file.stem
    return Shard(file, displayed(file.name), stem, stored=stored)


class ShardFiles(Protocol):
    """The shards of a source."""

    @property
    def first(self) -> Path | DataFile:
        """The first file, for messages."""
        ...

    def shards(self) -> list[Shard]:
        """Return the shards in the order of their names. Nothing is read yet."""
        ...

    def opened(self, shards: Sequence[Shard], numbers: Sequence[int]) -> Iterator[Shard]:
        """Yield the shards of these numbers, which increase, each with its file on disk."""
        ...

    def fingerprint(self) -> str:
        """Return the fingerprint, see `Source`."""
        ...


@dataclass(frozen=True)
class LocalShards:
    """Tar files of this machine."""

    files: Sequence[Path]

    @property
    def first(self) -> Path:
        """See `ShardFiles`."""
        return self.files[0]

    def shards(self) -> list[Shard]:
        """See `ShardFiles`."""
        return [shard_of(file) for file in self.files]

    def opened(self, shards: Sequence[Shard], numbers: Sequence[int]) -> Iterator[Shard]:
        """See `ShardFiles`."""
        for number in numbers:
            yield shards[number]

    def fingerprint(self) -> str:
        """See `ShardFiles`."""
        return fingerprint_files("tar", ((file.name, file) for file in self.files))


def hold_classes(shards: Sequence[Shard]) -> bool:
    """Return whether each shard with pictures holds one class; stop at the first that does not."""
    has_class = False
    for shard in shards:
        is_class = shard.holds_one_class()
        if is_class is False:
            return False
        has_class |= bool(is_class)
    # A single shard is not a data set of classes, unless its name is one of ImageNet's.
    is_single = len(shards) == 1 and not CLASS_FILE.fullmatch(shards[0].stem)
    return has_class and not is_single
