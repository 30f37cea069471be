"""What every tracker can do, and what it gets to know about a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Record:
    """A run as trackers see it."""

    id: str
    """Stays the same however often the run is tracked, so that a tracker finds it again."""
    name: str
    parameters: Mapping[str, str]
    """The recipe: values by dotted key."""
    provenance: Mapping[str, str]
    """With which versions, on what, and from which artifacts the run was made."""


class Tracker(Protocol):
    """A run that is open in a tracker. What the tracker already has is not written again.

    Every method may raise any error of the tracker's library.
    """

    @property
    def place(self) -> str:
        """Where people find the run: a folder, or the address of a server."""
        ...

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch."""
        ...

    def log_picture(self, name: str, png: bytes, *, epoch: int) -> None:
        """Write a picture that shows the run after an epoch."""
        ...

    def close(self, *, finished: bool) -> None:
        """Write what is not written yet. `finished` is False for a run that was interrupted."""
        ...
