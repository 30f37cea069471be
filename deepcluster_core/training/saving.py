"""The state of training on its way through an epoch: saved every so often, and gone on from.

Both networks, the momentum and the sum of the loss are all there is to a state: what else a step
needs (crops, dropout) depends on its number alone. So on a CPU an epoch that was cut short ends
with the same bytes as one that was not.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors.torch import load_file, save_file

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.context import SaveEvery
from deepcluster_core.interrupts import HeldBack, Interrupted, held_back
from deepcluster_core.training.epoch import Progress
from deepcluster_core.training.learner import Learner


class SavePoints:
    """Saves the state after a step: when it is time, and when the process is told to end."""

    def __init__(self, draft: Draft, learner: Learner, every: SaveEvery, held: HeldBack) -> None:
        """Save nothing yet.

        Args:
            draft: of the checkpoint that the epoch will end with.
            learner: what trains.
            every: how often.
            held: where signals are noted.
        """
        self._draft, self._learner, self._every, self._held = draft, learner, every, held
        self._last_s = time.monotonic()

    def resume(self) -> Progress:
        """Bring the learner to the last save; return how far that is, no step without one."""
        saved = self._draft.saved
        if saved is None:
            return Progress.at_start(self._learner.device)
        (name,) = saved.files
        self._learner.restore(load_file(self._draft.folder / name))
        return Progress.from_facts(saved.facts, self._learner.device)

    def reached(self, progress: Progress) -> None:
        """Save, if it is time.

        Raises:
            Interrupted: the process was told to end; everything is saved.
            TrainingError: there is nothing worth saving, the loss is not finite.
        """
        stop = self._held.signal is not None
        if stop or self._is_due(progress.step):
            progress.check_finite()  # what is saved must be worth going on from
            name, state = f"step={progress.step}.safetensors", self._learner.state()
            self._draft.save(progress.facts(), {name: lambda path: save_file(state, path)})
            self._last_s = time.monotonic()
        if stop:
            raise Interrupted

    def _is_due(self, step: int) -> bool:
        seconds, steps = self._every.seconds, self._every.steps
        by_time = seconds is not None and time.monotonic() - self._last_s >= seconds
        return by_time or (steps is not None and step % steps == 0)


@contextmanager
def save_points(draft: Draft, learner: Learner, every: SaveEvery) -> Iterator[SavePoints]:
    """Give save points, and hold Ctrl-C and SIGTERM back until the step under way is saved."""
    with held_back() as held:
        yield SavePoints(draft, learner, every, held)
