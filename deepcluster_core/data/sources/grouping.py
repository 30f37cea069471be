"""Group the members of a tar file into samples by their keys."""

from collections.abc import Iterator, Sequence

from deepcluster_core.data.sources.samples import Member

LARGEST_SAMPLE = 10_000
"""Limit on the members of a sample, so that a shard of one key does not fill the memory."""

Sample = dict[str, Member]
"""The members of a sample by name, in stored order."""


def grouped(listed: Sequence[Member]) -> list[Sample]:
    """Return the samples of members in any order; a repeated name begins another sample."""
    samples: list[Sample] = []
    latest: dict[str, Sample] = {}
    for member in listed:
        sample = latest.get(member.key)
        # Shards that were appended to each other may repeat the names of samples.
        if sample is None or member.name in sample:
            sample = {}
            latest[member.key] = sample
            samples.append(sample)
        sample[member.name] = member
    return samples


def adjacent(listed: Iterator[Member]) -> Iterator[Sample]:
    """Yield a sample for each series of adjacent members with one key."""
    sample: Sample = {}
    key = None
    for member in listed:
        is_next_key = member.key != key
        is_repeated = member.name in sample
        if is_next_key or is_repeated or len(sample) >= LARGEST_SAMPLE:
            if sample:
                yield sample
            sample = {}
            key = member.key
        sample[member.name] = member
    if sample:
        yield sample
