"""The callback through which long work reports its progress."""

from typing import Protocol


class Progress(Protocol):
    """A progress callback, called repeatedly from the thread that runs the stage."""

    def __call__(self, done: int, total: int | None) -> None:
        """Report that `done` of `total` images are done; `total` is None while it is unknown."""
        ...


def silent(done: int, total: int | None) -> None:
    """Ignore the progress."""


def part_of(progress: Progress, number: int, parts: int) -> Progress:
    """Return a callback for one of several equal parts of the work, which reports all of it.

    Args:
        progress: receives the progress of all parts.
        number: number of the part, from 0 on.
        parts: how many there are.
    """
    if parts == 1:
        return progress

    def report(done: int, total: int | None) -> None:
        if total is None:
            progress(done, None)
        else:
            progress((number * total + done) // parts, total)

    return report
