"""Save points: training is saved at intervals and resumes from the last save after a crash.

A save holds the state of a learner and a few facts (steps done, sum of the loss, rows of a table).
Everything else that a step needs (crops, dropout) depends on its number alone. On a CPU,
interrupted training therefore ends with exactly the weights of uninterrupted training.

All ranks hold the same state, so the first one saves for all. A save does not depend on the number
of ranks; training can resume with a different one.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save_file

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.context import SaveEvery
from deepcluster_core.interrupts import HeldBack, Interrupted, held_back
from deepcluster_core.training.learner import Learner

Facts = Mapping[str, Any]
"""JSON values by name."""


class SavePoints:
    """Saves a learner after a step: when a save is due or the process was asked to stop.

    With several ranks, all of them make the same calls. The clock of the first one decides when a
    save is due, and a signal to any of them stops all.
    """

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
        self._ranks = draft.context.ranks
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
        is_due, is_asked_to_stop = self._agree(is_due=self._is_due(step))
        if is_due or is_asked_to_stop:
            self._save(learner, step, facts, name)
        if is_asked_to_stop:
            self._stop()

    def stop_if_asked(
        self, learner: Learner, step: int, facts: Callable[[], Facts], name: str = "learner"
    ) -> None:
        """Save and stop if a signal has arrived; the arguments are those of `reached`.

        Raises:
            Interrupted: the process was asked to stop; everything is saved.
        """
        _, is_asked_to_stop = self._agree(is_due=False)
        if is_asked_to_stop:
            self._save(learner, step, facts, name)
            self._stop()

    def _agree(self, *, is_due: bool) -> tuple[bool, bool]:
        """Return whether all ranks save now, and whether all stop."""
        has_signal = self._held.signal is not None
        if self._ranks.size == 1:
            return is_due, has_signal
        # One sum for both, because this is called in every step.
        own_2 = torch.tensor([is_due and self._ranks.rank == 0, has_signal], dtype=torch.int32)
        due, signals = self._ranks.sum(own_2, "save or stop").tolist()
        return due > 0, signals > 0

    def _stop(self) -> NoReturn:
        """Stop this rank, after the save of the first rank is complete."""
        self._ranks.barrier("saved to stop")
        if self._held.signal is None:  # another rank has got it
            self._held.signal = signal.SIGTERM
        raise Interrupted

    def _save(self, learner: Learner, step: int, facts: Callable[[], Facts], name: str) -> None:
        if self._saved_at == (name, step):
            return  # already saved, and file names of saves must be unique
        # All ranks must call this, because it may add up what each of them has.
        facts_to_save = dict(facts())
        facts_to_save["learner"] = name
        facts_to_save["step"] = step
        if self._ranks.rank == 0:
            file = f"{name}-step={step}.safetensors"
            self._draft.save(facts_to_save, {file: partial(save_file, learner.state())})
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
