"""Members of a tar file put together into samples, by their keys."""

from collections.abc import Iterator, Sequence

from deepcluster_core.data.sources.samples import Member

LARGEST_SAMPLE = 10_000
"""Members; more are hardly one sample, and must not fill the memory."""

Sample = dict[str, Member]
"""The members of a sample by name, in stored order."""


def grouped(listed: Sequence[Member]) -> list[Sample]:
    """Return the samples of members in any order; a name that comes again begins another one."""
    samples: list[Sample] = []
    latest: dict[str, Sample] = {}
    for member in listed:
        sample = latest.get(member.key)
        if sample is None or member.name in sample:
            sample = latest[member.key] = {}
            samples.append(sample)
        sample[member.name] = member
    return samples


def adjacent(listed: Iterator[Member]) -> Iterator[Sample]:
    """Yield the samples of members that lie side by side."""
    sample: Sample = {}
    key = None
    for member in listed:
        if member.key != key or member.name in sample or len(sample) >= LARGEST_SAMPLE:
            if sample:
                yield sample
            sample, key = {}, member.key
        sample[member.name] = member
    if sample:
        yield sample
