"""List the members of tar shards: which are images, what their labels are, what is left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from deepcluster_core.data.contents import DataFile
from deepcluster_core.data.sources.base import SourceImage, displayed
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
)
from deepcluster_core.data.sources.separated_labels import SeparatedLabels
from deepcluster_core.data.sources.shard_files import Shard, hold_classes
from deepcluster_core.data.sources.tally import Tally, counts
from deepcluster_core.data.sources.tar import MemberReader
from deepcluster_core.errors import ConfigError, SourceError

LISTED_AT_ONCE = 50_000
"""Limit on the members of a shard that are held in memory. Up to this number the members of a
sample may be stored anywhere in the shard; in a larger shard they must be adjacent."""
TEXTS_LOOKED_AT = 1000
"""Limit on the `txt` members that are read to decide whether they are labels."""
COUNTED_IN_ERRORS = 100_000
"""Limit on the members that are counted for an error message."""
LABELS = frozenset((*TEXT_LABELS, "json", "txt"))
"""Extensions of members that may hold a label."""


class TarListing:
    """A pass over shards; decisions made for the first ones hold for the rest."""

    def __init__(
        self,
        with_labels: bool,
        image_key: frozenset[str] | None,
        label_key: str | None,
        tally: Tally,
    ) -> None:
        self._with_labels = with_labels
        self._image_key = image_key
        self._label_key = label_key
        self._tally = tally
        self._with_txt: bool | None = None
        """Whether txt members hold labels; None until some have been read."""
        self._with_txt_before: bool | None = None
        """The same, before the first shard of this pass."""
        self._used_with_txt: set[bool] = set()
        """How txt members were treated wherever that could matter."""
        self._shard_of_kind: dict[str, str] = {}
        """The first shard whose labels are all `numbers`, and the first with only `names`."""
        self.has_images = False

    def hold_classes(self, shards: Sequence[Shard]) -> bool:
        """Return whether labels are wanted and each shard is a class, and note that."""
        are_classes = self._with_labels and hold_classes(shards)
        self._tally.labels_are_files |= are_classes
        return are_classes

    def images_of(
        self, packed: Shard, *, is_class: bool, is_inner: bool = False
    ) -> Iterator[SourceImage]:
        """Yield the images of a shard, and then those of the tar files in it."""
        shard = packed.unpacked()
        class_name = displayed(shard.stem) if is_class else None
        # A tar file inside an inner one is not read but counted as left out.
        inner: list[Shard] = []
        for image in self._images(shard, None if is_inner else inner):
            self.has_images = True
            if image.label or class_name is None:
                yield image
            else:
                yield replace(image, label=class_name)
        are_classes = bool(inner) and self.hold_classes(inner)
        for each in inner:
            yield from self.images_of(each, is_class=are_classes, is_inner=True)

    def state(self) -> dict[str, Any]:
        """Return JSON values with which `restore` continues after the shards listed so far."""
        return {
            "with_txt": self._with_txt,
            "shard_of_kind": dict(self._shard_of_kind),
            "has_images": self.has_images,
            "tally": self._tally.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was called."""
        self._with_txt = state["with_txt"]
        self._shard_of_kind = dict(state["shard_of_kind"])
        self.has_images = state["has_images"]
        self._tally.restore(state["tally"])

    def begin_apart(self, state: Mapping[str, Any] | None) -> None:
        """Begin a pass over one shard, with what is known of those before it; see `join`."""
        if state is not None:
            self._with_txt = self._with_txt_before = state["with_txt"]

    def found(self) -> dict[str, Any]:
        """Return JSON values for `join`, after a pass over one shard."""
        return {
            **self.state(),
            "with_txt_before": self._with_txt_before,
            "used_with_txt": sorted(self._used_with_txt),
        }

    def join(self, shard: Shard, found: Mapping[str, Any]) -> bool:
        """Continue after a shard that another pass has listed, without the shards before it.

        Return False, and change nothing, if its listing would have differed in this pass.

        Raises:
            SourceError: its labels are of another kind than those before it.
        """
        if found["with_txt_before"] != self._with_txt:
            is_decided_alike = found["with_txt"] in (None, self._with_txt)
            is_used_alike = all(used == bool(self._with_txt) for used in found["used_with_txt"])
            if not (is_decided_alike and is_used_alike):
                return False
        if self._with_txt is None:
            self._with_txt = found["with_txt"]
        for kind, shown in found["shard_of_kind"].items():
            self._check_label_kind(kind, shard, shown)
        self.has_images |= found["has_images"]
        self._tally.add(found["tally"])
        return True

    def _images(self, shard: Shard, inner: list[Shard] | None) -> Iterator[SourceImage]:
        """Yield the images of a shard; append the tar files in it to `inner`, unless it is None."""
        names: set[int] = set()  # hashes, see `_unique`
        label_kinds: set[str] = set()
        with closing(MemberReader(shard.file)) as read_start:
            for samples in self._batches(shard, read_start):
                batch: list[tuple[int, SourceImage]] = []
                for sample in samples:
                    for picture, label in self._pictures(shard, sample, read_start, inner):
                        path = self._unique(shard, picture, names)
                        read = partial(shard.read, picture)
                        image = SourceImage(path, label, read)
                        batch.append((picture.offset, image))
                        if label is not None:
                            label_kinds.add(_kind_of_label(label))
                # Samples may be interleaved; in the order of storage the file is read once.
                batch.sort(key=itemgetter(0))
                for _, image in batch:
                    yield image
        # Labels of both kinds in one shard are names, some of which look like numbers.
        if len(label_kinds) == 1:
            self._check_label_kind(label_kinds.pop(), shard, shard.shown)

    def _batches(self, shard: Shard, read_start: MemberReader) -> Iterator[list[Sample]]:
        """Yield the samples of a shard, all at once if they are few enough."""
        listed = shard.listed()
        first_members = list(islice(listed, LISTED_AT_ONCE))
        samples = grouped(first_members)
        # The first shard with txt members decides for all what they are.
        if self._with_labels and self._with_txt is None:
            self._with_txt = _has_txt_labels(read_start, samples)
            self._tally.txt_are_captions = self._with_txt is False
        if len(first_members) < LISTED_AT_ONCE:
            yield samples
            return
        # The shard is too large to be held in memory, so only adjacent members are joined.
        separated = SeparatedLabels(LISTED_AT_ONCE)
        for sample in adjacent(chain(first_members, listed)):
            if self._with_labels:
                separated.check(shard, sample)
            yield [sample]

    def _pictures(
        self, shard: Shard, sample: Sample, read_start: MemberReader, inner: list[Shard] | None
    ) -> Iterator[tuple[Member, str | None]]:
        """Yield the pictures of a sample with their labels, and count the members left out."""
        # A shortcut for pictures without a label, of which a shard may hold millions.
        first = next(iter(sample.values()))
        if len(sample) == 1 and self._image_key is None and first.is_plain_picture:
            yield first, None
            return
        try:
            chosen = chosen_pictures(sample.values(), self._image_key)
        except AmbiguousPictureError:
            raise self._ambiguous(shard, sample) from None
        # The names of the pictures, and of the members that hold their labels.
        used = {member.name for member in chosen}
        if self._with_labels:
            yield from self._labelled(shard, sample, chosen, read_start, used)
        else:
            for picture in chosen:
                yield picture, None
        if len(chosen) > 1:
            extensions = [picture.extension for picture in chosen]
            self._tally.take_several(extensions)
        if len(used) < len(sample):
            self._count_others(shard, sample, used, inner)

    def _labelled(
        self,
        shard: Shard,
        sample: Sample,
        chosen: Sequence[Member],
        read_start: MemberReader,
        used: set[str],
    ) -> Iterator[tuple[Member, str | None]]:
        """Yield pictures with their labels; add the names of the label members to `used`."""
        beside = {m.extension: m for m in sample.values() if not m.is_picture}
        with_txt = bool(self._with_txt)
        self._used_with_txt.add(with_txt)
        for picture in chosen:
            found = find_label(
                picture, beside, read=read_start, with_txt=with_txt, label_key=self._label_key
            )
            if found.member is not None:
                used.add(found.member.name)
                if found.label is None:
                    self._tally.no_label_in(shard.path_of(found.member))
            yield picture, found.label

    def _count_others(
        self, shard: Shard, sample: Sample, used: set[str], inner: list[Shard] | None
    ) -> None:
        """Count the unused members of a sample; append tar files to `inner` instead."""
        is_expected = False
        for member in sample.values():
            if member.name in used:
                is_expected |= member.is_picture
                continue
            last_extension = member.extension.rpartition(".")[2]
            if inner is not None and last_extension == "tar":
                inner.append(shard.inner(member))
                is_expected = True  # a tar file is not a sample that lacks its picture
            elif self._with_labels or member.extension not in LABELS:
                self._tally.leave_out(member.extension)
        has_extension = any(member.extension for member in sample.values())
        if has_extension and not is_expected:
            self._tally.num_without += 1

    def _unique(self, shard: Shard, member: Member, names: set[int]) -> str:
        """Return a member's path, with `#2` if its name has occurred in the shard before."""
        path = shard.path_of(member)
        number = 1
        unique_path = path
        while hash(unique_path) in names:  # hashes need a third of the memory of names
            number += 1
            unique_path = f"{path}#{number}"
        names.add(hash(unique_path))
        if number > 1:
            self._tally.repeat(path)
        return unique_path

    def _check_label_kind(self, kind: str, shard: Shard, shown: str) -> None:
        """Raise SourceError if labels are numbers in one shard and names in another.

        `shown` is the path of the shard, or of a tar file in it.
        """
        places = self._shard_of_kind
        places.setdefault(kind, shown)
        if len(places) > 1:
            raise SourceError(
                f"{shard.origin}: labels are numbers in {places['numbers']} but names in "
                f"{places['names']}, so the same class would count as two.\n"
                f"  Fix: write all labels as numbers or all as names, or set "
                f"dataset.labels: none to ignore them."
            )

    def _ambiguous(self, shard: Shard, sample: Sample) -> ConfigError:
        """Return the error for a sample with pictures in several plain formats."""
        found: Counter[str] = Counter()
        for member in islice(shard.listed(), COUNTED_IN_ERRORS):
            if member.is_picture:
                found[member.extension] += 1
        first = next(iter(sample.values()))
        key = displayed(first.key)
        extensions = sorted({m.extension for m in sample.values() if m.is_picture})
        one = displayed(extensions[0])
        several = displayed(", ".join(extensions))
        return ConfigError(
            f"{shard.origin}: sample {key!r} has several pictures, and it is not clear which one "
            f"is meant.\n"
            f"  Found: {counts(found)}\n"
            f"  Fix:   choose with dataset.image_key: {one}; a list takes several, each as an "
            f"image: dataset.image_key: [{several}]"
        )

    def check_any_taken(self, file: Path | DataFile) -> None:
        """Raise ConfigError if the shards have pictures, but none of them is taken."""
        found: Counter[str] = Counter()
        for extension, count in self._tally.left_out.items():
            if Member("", "", extension, 0, 0).is_picture:
                found[extension] = count
        if not found:
            return
        cause = "their names are those of masks and the like"
        if self._image_key is not None:
            wanted = ", ".join(sorted(self._image_key))
            cause = f"dataset.image_key is {wanted}"
        raise ConfigError(
            f"{file}: none of the pictures is taken: {cause}.\n"
            f"  Found: {counts(found)}\n"
            f"  Fix:   choose one of these: dataset.image_key: {displayed(min(found))}"
        )


def _kind_of_label(label: str) -> str:
    is_number = label.lstrip("+-").isdecimal()
    return "numbers" if is_number else "names"


def _has_txt_labels(read_start: MemberReader, samples: Sequence[Sample]) -> bool | None:
    """Return whether the txt members beside images are labels; None if there are none."""
    texts: list[str] = []
    for sample in samples:
        found = {member.extension: member for member in sample.values()}
        # Beside another label a txt member is a caption.
        has_other_label = not found.keys().isdisjoint(TEXT_LABELS)
        if "txt" in found and len(found) > 1 and not has_other_label:
            text = label_of(read_start(found["txt"], MAX_TEXT_BYTES))
            if text:
                texts.append(text)
        if len(texts) == TEXTS_LOOKED_AT:
            break
    if not texts:
        return None
    return are_labels(texts)
