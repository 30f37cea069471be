"""What a long evaluation has done: networks finished, and the one that trains, saved on the way.

As in the training of an epoch, what else a step needs depends on its number alone: on a CPU an
evaluation that was cut short ends with the same rows as one that was not.
"""

import time
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file, save_file

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.context import SaveEvery
from deepcluster_core.interrupts import HeldBack, Interrupted
from deepcluster_core.training.learner import Learner
from stages.evaluations.results import Row


class Saves:
    """Saves rows when a network is finished, and the state of training when it is time."""

    def __init__(self, draft: Draft, every: SaveEvery, held: HeldBack) -> None:
        """Go on from the rows of the last save if there is one.

        Args:
            draft: of the evaluation's artifact.
            every: how often training is saved.
            held: where signals are noted.
        """
        self._draft, self._every, self._held = draft, every, held
        before: Mapping[str, Any] = draft.saved.facts if draft.saved else {}
        self.rows: list[Row] = list(before.get("rows", []))
        self.seconds_per_step: dict[str, float] = dict(before.get("seconds_per_step", {}))
        """Of each network, in the attempt that ended its training."""
        self._saved_at: tuple[str, int] | None = None
        self._last_s = time.monotonic()

    def resume(self, name: str, model: Learner) -> int:
        """Bring a network to where it was saved; return how many steps that is."""
        saved = self._draft.saved
        if saved is None or saved.facts.get("network") != name:
            return 0
        (file,) = saved.files
        model.restore(load_file(self._draft.folder / file))
        step = int(saved.facts["step"])
        self._saved_at = (name, step)
        return step

    def reached(self, name: str, model: Learner, step: int) -> None:
        """Save after a step of training, if it is time.

        Raises:
            Interrupted: the process was told to end; everything is saved.
        """
        if self._is_due(step):
            self._save(name, model, step)
        self.end_if_told(name, model, step)

    def end_if_told(self, name: str, model: Learner, step: int) -> None:
        """Look for a signal.

        Raises:
            Interrupted: the process was told to end; everything is saved.
        """
        if self._held.signal is not None:
            self._save(name, model, step)
            raise Interrupted

    def finished(self, rows: list[Row]) -> None:
        """Save the rows of a network."""
        self.rows += rows
        self._draft.save(self._facts())

    def _save(self, name: str, model: Learner, step: int) -> None:
        if self._saved_at == (name, step):
            return  # the name of its file is used
        file, state = f"{len(self.rows)}-step={step}.safetensors", model.state()
        facts = self._facts() | {"network": name, "step": step}
        self._draft.save(facts, {file: lambda path: save_file(state, path)})
        self._saved_at, self._last_s = (name, step), time.monotonic()

    def _facts(self) -> dict[str, Any]:
        rows = [dict(row) for row in self.rows]
        return {"rows": rows, "seconds_per_step": self.seconds_per_step}

    def _is_due(self, step: int) -> bool:
        seconds, steps = self._every.seconds, self._every.steps
        by_time = seconds is not None and time.monotonic() - self._last_s >= seconds
        return by_time or (steps is not None and step % steps == 0)
