"""The callback through which long work reports its progress."""

from typing import Protocol


class Progress(Protocol):
    """A progress callback, called repeatedly from the thread that runs the stage."""

    def __call__(self, done: int, total: int | None) -> None:
        """Report that `done` of `total` images are done; `total` is None while it is unknown."""
        ...


def silent(done: int, total: int | None) -> None:
    """Ignore the progress."""
