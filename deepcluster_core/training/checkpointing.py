"""Save points: training is saved at intervals and resumes from the last save after a crash.

A save holds the state of a learner and a few facts (steps done, sum of the loss, rows of a table).
Everything else that a step needs (crops, dropout) depends on its number alone. On a CPU,
interrupted training therefore ends with exactly the weights of uninterrupted training.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from safetensors.torch import load_file, save_file

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.context import SaveEvery
from deepcluster_core.interrupts import HeldBack, Interrupted, held_back
from deepcluster_core.training.learner import Learner

Facts = Mapping[str, Any]
"""JSON values by name."""


class SavePoints:
    """Saves a learner after a step: when a save is due or the process was asked to stop."""

    def __init__(self, draft: Draft, every: SaveEvery, held: HeldBack) -> None:
        """Start from the last save of the draft, if it has one.

        Args:
            draft: the unfinished artifact of this training.
            every: how often to save.
            held: records signals that ask the process to stop.
        """
        self._draft = draft
        self._every = every
        self._held = held
        self._saved_at: tuple[str, int] | None = None
        self._last_save_s = time.monotonic()

    def resume(self, learner: Learner, name: str = "learner") -> Facts | None:
        """Restore a learner from the last save and return the facts of that save.

        Args:
            learner: changed in place.
            name: name of the learner, if an artifact trains several in turn.

        Returns:
            The facts, with the number of completed steps as `step`; None if nothing was saved.
        """
        saved = self._draft.saved
        # A save of a different learner means that this one has not begun, or is finished already.
        if saved is None or saved.facts.get("learner") != name:
            return None
        (file,) = saved.files
        state = load_file(self._draft.folder / file)
        learner.restore(state)
        self._saved_at = (name, saved.facts["step"])
        return saved.facts

    def reached(
        self, learner: Learner, step: int, facts: Callable[[], Facts], name: str = "learner"
    ) -> None:
        """Save after a training step if a save is due, and stop if a signal has arrived.

        Args:
            learner: the learner to save.
            step: number of completed steps.
            facts: returns the facts to save with the state; called only when saving.
            name: name of the learner.

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
            return  # already saved, and file names of saves must be unique
        state = learner.state()
        facts_to_save = dict(facts())
        facts_to_save["learner"] = name
        facts_to_save["step"] = step
        file = f"{name}-step={step}.safetensors"
        self._draft.save(facts_to_save, {file: partial(save_file, state)})
        self._saved_at = (name, step)
        # The interval begins after the save, so that slow disks do not save all the time.
        self._last_save_s = time.monotonic()

    def _is_due(self, step: int) -> bool:
        steps = self._every.steps
        if steps is not None and step % steps == 0:
            return True
        seconds = self._every.seconds
        if seconds is None:
            return False
        return time.monotonic() - self._last_save_s >= seconds


@contextmanager
def save_points(draft: Draft, every: SaveEvery) -> Iterator[SavePoints]:
    """Yield save points, and defer Ctrl-C and SIGTERM until the current step is saved."""
    with held_back() as held:
        yield SavePoints(draft, every, held)
