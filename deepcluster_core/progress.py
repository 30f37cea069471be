"""How long work says how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called now and then from the thread that runs the stage."""

    def __call__(self, done: int, total: int | None) -> None:
        """Tell that `done` of `total` images are done; `total` is None while it is not known."""
        ...


def silent(done: int, total: int | None) -> None:
    """Listen to nothing."""
