"""Tar shards as a source of images, with the labels that WebDataset and ImageNet put there."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import IO

from deepcluster_core.data.sources.base import SourceImage, displayed, fingerprint_files
from deepcluster_core.data.sources.grouping import Sample, adjacent, grouped
from deepcluster_core.data.sources.labels import label_of
from deepcluster_core.data.sources.samples import (
    MAX_TEXT_BYTES,
    TEXT_LABELS,
    AmbiguousPictureError,
    Member,
    are_labels,
    chosen_pictures,
    find_label,
    is_class_file,
    split_name,
)
from deepcluster_core.data.sources.tally import Tally, counts
from deepcluster_core.data.sources.tar import harmless, members, read_member
from deepcluster_core.errors import ConfigError, SourceError

LISTED_AT_ONCE = 50_000
"""Members of a shard that are held in memory, so that those of a sample may lie anywhere in it. In
a larger shard they must lie side by side."""
TEXTS_LOOKED_AT = 1000
COUNTED_IN_ERRORS = 100_000
LABELS = frozenset((*TEXT_LABELS, "json", "txt"))


@dataclass(frozen=True)
class _Shard:
    """One tar file, or a tar file that is a member of one."""

    file: Path
    shown: str
    stem: str
    start: int = 0
    end: int | None = None

    def listed(self) -> Iterator[Member]:
        """Yield its members."""
        for info in members(self.file, start=self.start, end=self.end):
            name = harmless(info.name)
            yield Member(name, *split_name(name), info.offset_data, info.size)

    def path_of(self, member: Member) -> str:
        """Return the path of a member as shown to users."""
        return f"{self.shown}/{displayed(member.name)}"

    def holds_one_class(self) -> bool | None:
        """Decide by the first image; return None if there is none."""
        first = next((member for member in self.listed() if member.is_picture), None)
        return None if first is None else is_class_file(self.stem, first.name)


class _Heads:
    """Reads the first bytes of members, through one handle for all: labels are many and short."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def __call__(self, member: Member, limit: int) -> bytes:
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        return os.pread(self._file.fileno(), min(member.size, limit), member.offset)

    def close(self) -> None:
        """Close the handle, if it was opened."""
        if self._file is not None:
            self._file.close()


class TarSource:
    """The images in tar files, in the order of the files' names and of their members.

    Members with one key are a sample, see `samples`: that module says which of them are pictures
    and where their label is. A file that holds one class, as ImageNet's do, is itself the label.
    Tar files inside of a tar file are read too, one level deep, after the other members.

    Nothing is ever extracted, members are only read where they lie. Links, devices and sparse files
    in a shard are passed over, and names lose a leading '/' and any '..'.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        with_labels: bool,
        image_key: Sequence[str] | None = None,
    ) -> None:
        """Take `files`, sorted; nothing is read yet.

        Args:
            files: the shards.
            with_labels: look for labels.
            image_key: the extensions of the pictures to take, see `chosen_pictures`.
        """
        self._files = [file.absolute() for file in files]
        self._with_labels = with_labels
        self._image_key = frozenset(k.lower().lstrip(".") for k in image_key) if image_key else None
        self._tally = Tally()

    @property
    def originals(self) -> None:
        """None: images are members."""
        return None

    def images(self) -> Iterator[SourceImage]:
        """See `Source`.

        Raises:
            ConfigError: samples have several pictures, and it is not clear which are meant.
        """
        self._tally = Tally()
        listing = _Listing(self._with_labels, self._image_key, self._tally)
        shards = [_Shard(file, displayed(file.name), file.stem) for file in self._files]
        yield from listing.images_of(shards)
        if not listing.has_images:
            listing.refuse_unwanted(self._files[0])

    def notes(self) -> list[str]:
        """See `Source`."""
        return self._tally.sentences()

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprint_files("tar", ((file.name, file) for file in self._files))

    def count(self) -> None:
        """Return None: a tar file has no table of its members."""
        return


class _Listing:
    """One pass over the shards: what is known from the first ones decides about the next."""

    def __init__(self, with_labels: bool, image_key: frozenset[str] | None, tally: Tally) -> None:
        self._with_labels, self._image_key, self._tally = with_labels, image_key, tally
        self._with_txt: bool | None = None
        """Whether txt members hold labels; None before the first were seen."""
        self._shard_of_kind: dict[str, str] = {}
        self.has_images = False

    def images_of(self, shards: Sequence[_Shard], *, depth: int = 0) -> Iterator[SourceImage]:
        """Yield the images of shards, then those of the tar files that they hold."""
        hold_classes = self._with_labels and _hold_classes(shards)
        self._tally.labels_are_files |= hold_classes
        for shard in shards:
            inner: list[_Shard] = []
            label = displayed(shard.stem) if hold_classes else None
            for found in self._images(shard, inner if depth == 0 else None):
                self.has_images = True
                yield found if found.label or label is None else replace(found, label=label)
            yield from self.images_of(inner, depth=depth + 1) if inner else ()

    def _images(self, shard: _Shard, inner: list[_Shard] | None) -> Iterator[SourceImage]:
        names: set[int] = set()
        kinds: set[str] = set()
        with closing(_Heads(shard.file)) as heads:
            for samples in self._batches(shard, heads):
                batch: list[tuple[int, SourceImage]] = []
                for sample in samples:
                    for picture, label in self._pictures(shard, sample, heads, inner):
                        path = self._unique(shard, picture, names)
                        read = partial(read_member, shard.file, picture.offset, picture.size)
                        batch.append((picture.offset, SourceImage(path, label, read)))
                        if label is not None:
                            kinds.add("numbers" if label.lstrip("+-").isdecimal() else "names")
                batch.sort(key=itemgetter(0))
                yield from (image for _, image in batch)
        if len(kinds) == 1:
            self._refuse_other_kind(kinds.pop(), shard)

    def _batches(self, shard: _Shard, heads: _Heads) -> Iterator[list[Sample]]:
        """Yield the samples of a shard, all at once if they are few enough."""
        listed = shard.listed()
        head = list(islice(listed, LISTED_AT_ONCE))
        samples = grouped(head)
        if self._with_labels and self._with_txt is None:
            self._with_txt = _has_txt_labels(heads, samples)
            self._tally.txt_are_captions = self._with_txt is False
        if len(head) < LISTED_AT_ONCE:
            yield samples
            return
        apart = _Apart()
        for sample in adjacent(chain(head, listed)):
            if self._with_labels:
                apart.refuse(shard, sample)
            yield [sample]

    def _pictures(
        self, shard: _Shard, sample: Sample, heads: _Heads, inner: list[_Shard] | None
    ) -> Iterator[tuple[Member, str | None]]:
        """Yield the pictures of a sample with their labels, and count what is left out."""
        first = next(iter(sample.values()))
        if len(sample) == 1 and self._image_key is None and first.is_plain_picture:
            yield first, None  # there may be millions of these
            return
        try:
            chosen = chosen_pictures(sample.values(), self._image_key)
        except AmbiguousPictureError:
            raise self._ambiguous(shard, sample) from None
        used = {member.name for member in chosen}
        if self._with_labels:
            yield from self._labelled(shard, sample, chosen, heads, used)
        else:
            yield from ((picture, None) for picture in chosen)
        if len(chosen) > 1:
            self._tally.take_several([picture.extension for picture in chosen])
        if len(used) < len(sample):
            self._count_others(shard, sample, used, inner)

    def _labelled(
        self,
        shard: _Shard,
        sample: Sample,
        chosen: Sequence[Member],
        heads: _Heads,
        used: set[str],
    ) -> Iterator[tuple[Member, str | None]]:
        """Yield pictures with their labels; add the members that hold those to `used`."""
        beside = {m.extension: m for m in sample.values() if not m.is_picture}
        with_txt = bool(self._with_txt)
        for picture in chosen:
            found = find_label(picture, beside, read=heads, with_txt=with_txt)
            if found.member is not None:
                used.add(found.member.name)
                if found.label is None:
                    self._tally.no_label_in(shard.path_of(found.member))
            yield picture, found.label

    def _count_others(
        self, shard: _Shard, sample: Sample, used: set[str], inner: list[_Shard] | None
    ) -> None:
        has_picture = False
        for member in sample.values():
            has_picture |= member.is_picture and member.name in used
            if member.name in used:
                continue
            if inner is not None and member.extension.rpartition(".")[2] == "tar":
                inner.append(_inner(shard, member))
                has_picture = True  # no sample
            elif self._with_labels or member.extension not in LABELS:
                self._tally.leave_out(member.extension)
        if not has_picture and any(m.extension for m in sample.values()):
            self._tally.num_without += 1

    def _unique(self, shard: _Shard, member: Member, names: set[int]) -> str:
        """Return the path of a member: with `#2` if the shard has had one of this name before."""
        path, number = shard.path_of(member), 1
        name = path
        while hash(name) in names:  # hashes need a third of the memory of names
            number += 1
            name = f"{path}#{number}"
        names.add(hash(name))
        if number > 1:
            self._tally.repeat(path)
        return name

    def _refuse_other_kind(self, kind: str, shard: _Shard) -> None:
        self._shard_of_kind.setdefault(kind, shard.shown)
        if len(self._shard_of_kind) > 1:
            places = self._shard_of_kind
            raise SourceError(
                f"{shard.file}: labels are numbers in {places['numbers']} but names in "
                f"{places['names']}, so the same class would count as two.\n"
                f"  Fix: write the labels alike, or set dataset.labels: none to do without."
            )

    def _ambiguous(self, shard: _Shard, sample: Sample) -> ConfigError:
        """Return the error for samples with pictures of several plain formats."""
        found = Counter(
            member.extension
            for member in islice(shard.listed(), COUNTED_IN_ERRORS)
            if member.is_picture
        )
        plain = sorted({m.extension for m in sample.values() if m.is_picture})
        key = next(iter(sample.values())).key
        return ConfigError(
            f"{shard.file}: sample {displayed(key)!r} has several pictures, and it is not clear "
            f"which one is meant.\n"
            f"  Found: {counts(found)}\n"
            f"  Fix:   choose with dataset.image_key: {displayed(plain[0])}; a list takes several, "
            f"each as an image: dataset.image_key: [{displayed(', '.join(plain))}]"
        )

    def refuse_unwanted(self, file: Path) -> None:
        """Raise if there are pictures in the shards, of which not one is to be taken."""
        found = Counter(
            {
                extension: count
                for extension, count in self._tally.left_out.items()
                if Member("", "", extension, 0, 0).is_picture
            }
        )
        if not found:
            return
        cause = "they look like masks or the like"
        if self._image_key is not None:
            cause = f"dataset.image_key is {', '.join(sorted(self._image_key))}"
        raise ConfigError(
            f"{file}: none of the pictures is taken: {cause}.\n"
            f"  Found: {counts(found)}\n"
            f"  Fix:   choose one of these: dataset.image_key: {displayed(min(found))}"
        )


class _Apart:
    """Notices, in a shard too large to be held, pictures whose labels lie elsewhere in it."""

    def __init__(self) -> None:
        self._pictures: set[str] = set()
        self._labels: set[str] = set()

    def refuse(self, shard: _Shard, sample: Sample) -> None:
        """Raise if the picture and the label of one key came in two samples."""
        has_label = has_picture = False
        key = ""
        for member in sample.values():
            key = member.key
            has_picture |= member.is_picture
            has_label |= member.extension in TEXT_LABELS
        if has_label == has_picture:
            return
        mine, others = (
            (self._labels, self._pictures) if has_label else (self._pictures, self._labels)
        )
        if key in others:
            raise SourceError(
                f"{shard.file}: the pictures of a sample and its label do not lie side by side, "
                f"for example those of {displayed(key)!r}. In a tar file with more than "
                f"{LISTED_AT_ONCE:,} members they must.\n"
                f"  Fix: write it again in the order of names (tar --sort=name), or set "
                f"dataset.labels: none to do without labels."
            )
        if len(mine) < LISTED_AT_ONCE:
            mine.add(key)


def _has_txt_labels(heads: _Heads, samples: Sequence[Sample]) -> bool | None:
    """Return whether the txt members beside images are labels; None if there are none."""
    texts: list[str] = []
    for sample in samples:
        found = {member.extension: member for member in sample.values()}
        if "txt" in found and len(found) > 1 and found.keys().isdisjoint(TEXT_LABELS):
            text = label_of(heads(found["txt"], MAX_TEXT_BYTES))
            texts += [text] if text else []
        if len(texts) == TEXTS_LOOKED_AT:
            break
    return are_labels(texts) if texts else None


def _hold_classes(shards: Sequence[_Shard]) -> bool:
    """Return whether each shard holds one class; stop at the first that does not."""
    found = False
    for shard in shards:
        verdict = shard.holds_one_class()
        if verdict is False:
            return False
        found |= bool(verdict)
    is_one = len(shards) == 1 and not re.fullmatch(r"n\d{8}", shards[0].stem)
    return found and not is_one


def _inner(shard: _Shard, member: Member) -> _Shard:
    stem = member.name.rpartition("/")[2].rpartition(".")[0]
    end = member.offset + member.size
    return _Shard(shard.file, shard.path_of(member), stem, member.offset, end)
