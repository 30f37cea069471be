"""The turns of networks that an evaluation trains and judges one after another."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from deepcluster_core.context import Context
from deepcluster_core.training.learner import Learner
from stages.evaluations.saves import Saves

Found = TypeVar("Found")


class Fit(Protocol):
    """What trains a network."""

    def __call__(self, *, start: int, after_step: Callable[[int], None]) -> None:
        """Train from step `start` on; `after_step` is told how many steps are done."""
        ...


class Turns:
    """Tells progress over all networks, and saves: each goes on where it was."""

    def __init__(
        self,
        saves: Saves,
        context: Context,
        *,
        networks: int,
        iterations: int,
        batch_size: int,
        judged: int,
    ) -> None:
        """Begin with the first network.

        Args:
            saves: of the evaluation.
            context: told the images that are done.
            networks: how many there are.
            iterations: steps of training of each.
            batch_size: images in a step.
            judged: images that each network judges.
        """
        self._saves, self._context = saves, context
        self._iterations, self._batch_size = iterations, batch_size
        self._of_one = iterations * batch_size + judged
        self._done, self._total = 0, networks * self._of_one

    def is_over(self, name: str) -> bool:
        """Tell whether the turn of a network was before: its rows are in `saves`."""
        over = any(row["network"] == name for row in self._saves.rows)
        if over:
            self._went(self._of_one)
        return over

    def train(self, name: str, model: Learner, fit: Fit) -> None:
        """Train a network from where it was saved.

        Raises:
            Interrupted: the process was told to end; everything is saved.
        """
        first, begun_s = self._saves.resume(name, model), time.perf_counter()
        self._went(first * self._batch_size)

        def after_step(step: int) -> None:
            self._went(self._batch_size)
            self._saves.seconds_per_step[name] = (time.perf_counter() - begun_s) / (step - first)
            self._saves.reached(name, model, step)

        fit(start=first, after_step=after_step)

    def judge(
        self,
        name: str,
        model: Learner,
        found: Iterable[Found],
        *,
        size: Callable[[Found], int] = lambda _: 1,
    ) -> Iterator[Found]:
        """Yield what a trained network finds, and look for signals between.

        Args:
            name: of the network.
            model: its state is saved if there is a signal.
            found: computed when it is asked for.
            size: of one of it: images that it is of.

        Raises:
            Interrupted: the process was told to end; everything is saved.
        """
        for one in found:
            yield one
            self._went(size(one))
            self._saves.end_if_told(name, model, self._iterations)

    def _went(self, num_images: int) -> None:
        self._done += num_images
        self._context.progress(self._done, self._total)


def pace(saves: Saves, *, full_iterations: int) -> dict[str, Any]:
    """Return, as facts, what training took, and would take in the full number of steps.

    Args:
        saves: of the evaluation.
        full_iterations: of the shipped protocol.
    """
    seconds = saves.seconds_per_step
    return {
        "seconds_per_step": {name: round(s, 5) for name, s in seconds.items()},
        # Of all networks, on this machine.
        "hours_at_full_length": round(sum(seconds.values()) * full_iterations / 3600, 2),
    }
