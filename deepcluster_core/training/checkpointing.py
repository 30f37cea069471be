"""Save points: training is saved every so often and resumes there after a crash.

The state of a learner and a few facts (steps done, sum of the loss, rows of a table) are all that
is saved. Whatever else a step needs (crops, dropout) depends on its number alone. So on a CPU,
training that was interrupted ends with the same bytes as training that was not.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safetensors.torch import load_file, save_file

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.context import SaveEvery
from deepcluster_core.interrupts import HeldBack, Interrupted, held_back
from deepcluster_core.training.learner import Learner

Facts = Mapping[str, Any]
"""JSON values."""


class SavePoints:
    """Saves a learner after a step: when it is due, and when the process was asked to stop."""

    def __init__(self, draft: Draft, every: SaveEvery, held: HeldBack) -> None:
        """Start from the last save of the draft, if it has one.

        Args:
            draft: unfinished artifact that the training is for.
            every: how often to save.
            held: records signals that ask the process to stop.
        """
        self._draft, self._every, self._held = draft, every, held
        self._saved_at: tuple[str, int] | None = None
        self._last_s = time.monotonic()

    def resume(self, learner: Learner, name: str = "learner") -> Facts | None:
        """Bring a learner to where it was saved, and return the facts of that save.

        Args:
            learner: changed in place.
            name: of the learner, where one artifact trains several in turn.

        Returns:
            The facts, with the number of completed steps as `step`; None if nothing was saved.
        """
        saved = self._draft.saved
        if saved is None or saved.facts.get("learner") != name:
            return None
        (file,) = saved.files
        learner.restore(load_file(self._draft.folder / file))
        self._saved_at = (name, saved.facts["step"])
        return saved.facts

    def reached(
        self, learner: Learner, step: int, facts: Callable[[], Facts], name: str = "learner"
    ) -> None:
        """Save after a step of training, if it is time.

        Args:
            learner: what trains.
            step: number of completed steps.
            facts: returns what is saved beside the state; called only when saving.
            name: of the learner.

        Raises:
            Interrupted: the process was asked to stop; everything is saved.
        """
        if self._is_due(step):
            self._save(learner, step, facts, name)
        self.stop_if_asked(learner, step, facts, name)

    def stop_if_asked(
        self, learner: Learner, step: int, facts: Callable[[], Facts], name: str = "learner"
    ) -> None:
        """Save and stop if a signal has arrived; the arguments are those of `reached`.

        Raises:
            Interrupted: the process was asked to stop; everything is saved.
        """
        if self._held.signal is not None:
            self._save(learner, step, facts, name)
            raise Interrupted

    def _save(self, learner: Learner, step: int, facts: Callable[[], Facts], name: str) -> None:
        if self._saved_at == (name, step):
            return  # no two saves may use the same file name
        where, state = {"learner": name, "step": step}, learner.state()
        file = f"{name}-step={step}.safetensors"
        self._draft.save({**facts(), **where}, {file: lambda path: save_file(state, path)})
        self._saved_at, self._last_s = (name, step), time.monotonic()

    def _is_due(self, step: int) -> bool:
        seconds, steps = self._every.seconds, self._every.steps
        by_time = seconds is not None and time.monotonic() - self._last_s >= seconds
        return by_time or (steps is not None and step % steps == 0)


@contextmanager
def save_points(draft: Draft, every: SaveEvery) -> Iterator[SavePoints]:
    """Yield save points, and defer Ctrl-C and SIGTERM until the current step is saved."""
    with held_back() as held:
        yield SavePoints(draft, every, held)
