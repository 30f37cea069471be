"""Detect labels of tar shards that cannot be joined with their pictures."""

from deepcluster_core.data.sources.base import displayed
from deepcluster_core.data.sources.grouping import Sample
from deepcluster_core.data.sources.samples import TEXT_LABELS
from deepcluster_core.data.sources.shard_files import Shard
from deepcluster_core.errors import SourceError


class SeparatedLabels:
    """Detects, in a shard too large for memory, labels that are not adjacent to their pictures."""

    def __init__(self, limit: int) -> None:
        """Store the largest number of members with which a shard fits in memory."""
        self._limit = limit
        self._pictures: set[str] = set()
        self._labels: set[str] = set()

    def check(self, shard: Shard, sample: Sample) -> None:
        """Raise SourceError if an earlier sample has the missing half of this one."""
        has_label = has_picture = False
        key = ""
        for member in sample.values():
            key = member.key
            has_picture |= member.is_picture
            has_label |= member.extension in TEXT_LABELS
        # A complete sample, or one of other members, has nothing to miss.
        if has_label == has_picture:
            return
        if has_label:
            mine, others = self._labels, self._pictures
        else:
            mine, others = self._pictures, self._labels
        if key in others:
            raise SourceError(
                f"{shard.origin}: the pictures of a sample and its label are not adjacent, for "
                f"example those of {displayed(key)!r}. In a tar file with more than "
                f"{self._limit:,} members they must be.\n"
                f"  Fix: write the tar file with sorted names (tar --sort=name), or set "
                f"dataset.labels: none to ignore the labels."
            )
        if len(mine) < self._limit:  # pictures without labels must not fill the memory
            mine.add(key)
