"""What a long evaluation has done so far: rows of finished networks, and one that still trains."""

from typing import Any

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.context import SaveEvery
from deepcluster_core.interrupts import HeldBack
from deepcluster_core.training.checkpointing import Facts, SavePoints
from stages.evaluations.results import Row


class Saves(SavePoints):
    """Save points that also hold the rows of the finished networks."""

    def __init__(self, draft: Draft, every: SaveEvery, held: HeldBack) -> None:
        """Start from the rows of the last save, if there is one."""
        super().__init__(draft, every, held)
        before: Facts = draft.saved.facts if draft.saved else {}
        self.rows: list[Row] = list(before.get("rows", []))
        self.seconds_per_step: dict[str, float] = dict(before.get("seconds_per_step", {}))
        """Seconds of a training step by network, in the attempt that finished its training."""

    def finished(self, rows: list[Row]) -> None:
        """Save the rows of a network."""
        self.rows += rows
        self._draft.save(self.facts())

    def facts(self) -> dict[str, Any]:
        """Return what every save holds, as JSON values."""
        rows = [dict(row) for row in self.rows]
        return {"rows": rows, "seconds_per_step": self.seconds_per_step}
