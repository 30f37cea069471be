"""A tar file of images: its members, the tar files in it, and whether it holds one class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.data.sources.base import displayed
from deepcluster_core.data.sources.samples import CLASS_FILE, Member, is_class_file, split_name
from deepcluster_core.data.sources.tar import harmless, members


@dataclass(frozen=True)
class Shard:
    """A tar file, or a tar file that is a member of another one."""

    file: Path
    """The file on disk, which for an inner tar file is the outer one."""
    shown: str
    """Path as shown to users."""
    stem: str
    """Name without folders and without `.tar`."""
    start: int = 0
    """Offset in `file` at which the archive begins."""
    end: int | None = None
    """Offset in `file` at which the archive ends; None for the end of the file."""

    def listed(self) -> Iterator[Member]:
        """Yield the members in stored order."""
        for info in members(self.file, start=self.start, end=self.end):
            name = harmless(info.name)
            key, extension = split_name(name)
            yield Member(name, key, extension, info.offset_data, info.size)

    def path_of(self, member: Member) -> str:
        """Return the path of a member as shown to users."""
        return f"{self.shown}/{displayed(member.name)}"

    def holds_one_class(self) -> bool | None:
        """Return whether the first picture is named as in a class; None without pictures."""
        # The first picture is enough, since listing a whole shard takes long.
        for member in self.listed():
            if member.is_picture:
                return is_class_file(self.stem, member.name)
        return None

    def inner(self, member: Member) -> "Shard":
        """Return the tar file that is a member of this one."""
        file_name = member.name.rpartition("/")[2]
        stem = file_name.rpartition(".")[0]
        end = member.offset + member.size
        return Shard(self.file, self.path_of(member), stem, member.offset, end)


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
