"""Saves of a long evaluation: the rows of finished networks and the one still in training."""

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
            masks: saved together with the rows; updated in place with the masks of the last save.
        """
        super().__init__(draft, draft.context.save_every, held)
        # Copy the containers of the last save, because they grow.
        saved_facts: Facts = draft.saved.facts if draft.saved else {}
        self.rows: list[Row] = list(saved_facts.get("rows", []))
        saved_seconds = saved_facts.get("seconds_per_step", {})
        self.seconds_per_step: dict[str, float] = dict(saved_seconds)
        """Seconds per training step by network, in the attempt that finished its training."""
        # The caller keeps this dictionary, too, so it is updated and not replaced.
        self._masks = masks
        masks.update(saved_facts.get("shown", {}))

    def add(self, rows: list[Row]) -> None:
        """Add the rows of a finished network, and save all rows."""
        self.rows += rows
        self._draft.save(self.facts())

    def facts(self) -> dict[str, Any]:
        """Return the facts that every save holds, as JSON values."""
        return {
            "rows": [dict(row) for row in self.rows],
            "seconds_per_step": self.seconds_per_step,
            "shown": self._masks,
        }
