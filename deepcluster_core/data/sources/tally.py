"""What a source of samples leaves out and decides by itself, counted while it is listed."""

from collections import Counter

from deepcluster_core.data.sources.base import displayed

MAX_COUNTED = 50
"""Different extensions; more are dots in the names of files."""
MAX_VIEWS = 16
MAX_NAMED = 6


class Tally:
    """Counts of members and samples, and the sentences that report them."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        """Members that are neither a picture that is used nor a label, by extension."""
        self.views: Counter[str] = Counter()
        """Pictures of samples with several of them, by extension."""
        self.num_multiple = self.num_without = 0
        self.repeated: list[str] = []
        self.num_repeated = 0
        self.bad_labels: list[str] = []
        self.num_bad_labels = 0
        self.txt_are_captions = self.labels_are_files = False

    def leave_out(self, extension: str) -> None:
        """Count a member that is not used."""
        _count(self.left_out, extension or "without extension")

    def take_several(self, extensions: list[str]) -> None:
        """Count the pictures of a sample of which more than one is used, unless they are alike."""
        if len(set(extensions)) == 1:
            return
        self.num_multiple += 1
        for extension in extensions:
            _count(self.views, extension)

    def repeat(self, path: str) -> None:
        """Count a name that comes again in the same shard."""
        self.num_repeated += 1
        self.repeated = self.repeated or [path]

    def no_label_in(self, path: str) -> None:
        """Count a member that should hold a label and does not."""
        self.num_bad_labels += 1
        self.bad_labels = self.bad_labels or [path]

    def sentences(self) -> list[str]:
        """Return what is worth knowing, a sentence each."""
        said: list[str] = []
        if self.left_out:
            said.append(f"left out: {counts(self.left_out)}")
        if self.num_without:
            said.append(f"samples without a picture: {self.num_without:,}")
        if self.num_multiple and len(self.views) <= MAX_VIEWS:
            first = min(self.views)
            said.append(
                f"samples with several pictures: {self.num_multiple:,} ({counts(self.views)}); "
                f"each picture is an image, dataset.image_key: {displayed(first)} takes only one"
            )
        if self.num_repeated:
            said.append(
                f"names that come again in the same tar file: {self.num_repeated:,}, for example "
                f"{self.repeated[0]}; the later ones are called …#2"
            )
        if self.num_bad_labels:
            said.append(
                f"members without a usable label: {self.num_bad_labels:,}, for example "
                f"{self.bad_labels[0]}"
            )
        if self.txt_are_captions:
            said.append("no labels from txt members: their texts look like captions")
        if self.labels_are_files:
            said.append("labels are the names of the tar files, each of which holds one class")
        return said


def counts(found: Counter[str]) -> str:
    """Return counts in words, the largest first: `60 seg.png, 3 txt`."""
    most = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count:,} {displayed(name)[:40]}" for name, count in most[:MAX_NAMED]]
    rest = sum(count for _, count in most[MAX_NAMED:])
    return ", ".join([*named, f"{rest:,} others"] if rest else named)


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < MAX_COUNTED else "of other kinds"] += 1
