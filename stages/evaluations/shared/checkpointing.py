"""What a long evaluation has done so far: rows of finished networks, and one that still trains."""

from typing import Any

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.interrupts import HeldBack
from deepcluster_core.training.checkpointing import Facts, SavePoints
from stages.evaluations.shared.results import Row


class FinishedNetworks(SavePoints):
    """Save points that also hold the rows of the finished networks."""

    def __init__(self, draft: Draft, held: HeldBack, *, masks: dict[str, list[str]]) -> None:
        """Start from the rows of the last save, if there is one.

        Args:
            draft: artifact of the evaluation.
            held: records signals that ask the process to stop.
            masks: saved with the rows, and filled with what was saved.
        """
        super().__init__(draft, draft.context.save_every, held)
        before: Facts = draft.saved.facts if draft.saved else {}
        self.rows: list[Row] = list(before.get("rows", []))
        self.seconds_per_step: dict[str, float] = dict(before.get("seconds_per_step", {}))
        """Seconds of a training step by network, in the attempt that finished its training."""
        self._masks = masks
        masks.update(before.get("shown", {}))

    def add(self, rows: list[Row]) -> None:
        """Save the rows of a network."""
        self.rows += rows
        self._draft.save(self.facts())

    def facts(self) -> dict[str, Any]:
        """Return what every save holds, as JSON values."""
        return {
            "rows": [dict(row) for row in self.rows],
            "seconds_per_step": self.seconds_per_step,
            "shown": self._masks,
        }
