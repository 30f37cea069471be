"""Counts of what a source of samples leaves out and decides by itself, for notes to the user."""

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from deepcluster_core.data.sources.base import displayed

MAX_COUNTED = 50
"""Limit on the extensions that are counted apart; if there are more, file names contain dots."""
MAX_SEVERAL = 16
"""Limit on the extensions of pictures in samples with several; if there are more, file names
contain dots."""
MAX_NAMED = 6
"""Number of extensions that a note names."""


class Tally:
    """Counts of members and samples, and the notes that report them."""

    max_counted = MAX_COUNTED

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        """Members that are neither a picture that is used nor a label, by extension."""
        self.several: Counter[str] = Counter()
        """Pictures in samples with several pictures, by extension."""
        self.num_multiple = 0
        """Number of samples with several pictures."""
        self.num_without = 0
        """Number of samples without a picture."""
        self.repeated: list[str] = []
        """The first repeated name."""
        self.num_repeated = 0
        self.bad_labels: list[str] = []
        """The first member without a usable label."""
        self.num_bad_labels = 0
        self.txt_are_captions = False
        self.labels_are_files = False

    def state(self) -> dict[str, Any]:
        """Return all counts as JSON values, for `restore`."""
        state: dict[str, Any] = {}
        for name, value in vars(self).items():
            state[name] = dict(value) if isinstance(value, Counter) else deepcopy(value)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with the counts that `state` returned."""
        for name, value in state.items():
            is_counter = isinstance(getattr(self, name), Counter)
            setattr(self, name, Counter(value) if is_counter else deepcopy(value))

    def add(self, later: Mapping[str, Any]) -> None:
        """Add the `state` of the counts of a later file; the result is that of one count of both.

        That holds if the later file was counted in a `FileTally` that is not full.
        """
        for name, value in later.items():
            own = getattr(self, name)
            if isinstance(own, Counter):
                for kind, count in value.items():  # in the order in which the kinds were found
                    count_up(own, kind, count, at_most=self.max_counted)
            elif isinstance(own, bool):
                setattr(self, name, own or value)
            elif isinstance(own, list):
                setattr(self, name, own or list(value))
            else:
                setattr(self, name, own + value)

    def leave_out(self, extension: str) -> None:
        """Count a member that is not used."""
        count_up(self.left_out, extension or "without extension", at_most=self.max_counted)

    def take_several(self, extensions: list[str]) -> None:
        """Count the used pictures of a sample, unless all have one extension."""
        # With one extension they are numbered pictures, between which no key chooses.
        if len(set(extensions)) == 1:
            return
        self.num_multiple += 1
        for extension in extensions:
            count_up(self.several, extension, at_most=self.max_counted)

    def repeat(self, path: str) -> None:
        """Count a name that occurs again in a shard."""
        self.num_repeated += 1
        self.repeated = self.repeated or [path]

    def no_label_in(self, path: str) -> None:
        """Count a member that should hold a label but does not."""
        self.num_bad_labels += 1
        self.bad_labels = self.bad_labels or [path]

    def sentences(self) -> list[str]:
        """Return a note for each count that is not zero."""
        notes: list[str] = []
        if self.left_out:
            notes.append(f"left out: {counts(self.left_out)}")
        if self.num_without:
            notes.append(f"samples without a picture: {self.num_without:,}")
        # More extensions than this come from dots in file names, and no key could choose.
        if self.num_multiple and len(self.several) <= MAX_SEVERAL:
            first = displayed(min(self.several))
            notes.append(
                f"samples with several pictures: {self.num_multiple:,} ({counts(self.several)}); "
                f"each picture is an image, dataset.image_key: {first} takes only one"
            )
        if self.num_repeated:
            notes.append(
                f"names that occur again in the same tar file: {self.num_repeated:,}, for example "
                f"{self.repeated[0]}; the later ones are listed as …#2"
            )
        if self.num_bad_labels:
            notes.append(
                f"members without a usable label: {self.num_bad_labels:,}, for example "
                f"{self.bad_labels[0]}"
            )
        if self.txt_are_captions:
            notes.append("no labels from txt members: their texts look like captions")
        if self.labels_are_files:
            notes.append("labels are the names of the tar files, each of which holds one class")
        return notes


class FileTally(Tally):
    """The counts of one file, which are added to those of the files before it.

    It keeps more names apart, because those that are named in the end depend on the files before.
    """

    max_counted = 1 << 16


def counts(found: Counter[str]) -> str:
    """Return counts in words, the largest first: `60 seg.png, 3 txt`."""
    parts: list[str] = []
    num_others = 0
    for name, count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        if len(parts) < MAX_NAMED:
            short_name = displayed(name)[:40]
            parts.append(f"{count:,} {short_name}")
        else:
            num_others += count
    if num_others:
        parts.append(f"{num_others:,} others")
    return ", ".join(parts)


def count_up(
    counter: Counter[str], name: str, count: int = 1, *, at_most: int = MAX_COUNTED
) -> None:
    """Count a name, or another kind if there are too many names already."""
    is_full = len(counter) >= at_most
    if is_full and name not in counter:
        name = "of other kinds"
    counter[name] += count
