"""Networks that an evaluation trains and judges one after another."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from deepcluster_core.context import Context
from deepcluster_core.training.learner import Learner
from stages.evaluations.saves import Saves

Found = TypeVar("Found")


class Fit(Protocol):
    """Trains a network."""

    def __call__(self, *, start: int, after_step: Callable[[int], None]) -> None:
        """Train from step `start` on; `after_step` receives the number of completed steps."""
        ...


class Turns:
    """Trains and judges each network in turn, reports progress over all of them, and saves."""

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
            saves: save points of the evaluation.
            context: receives the progress, in images.
            networks: number of networks.
            iterations: training steps of each network.
            batch_size: images in a step.
            judged: images that each network judges.
        """
        self._saves, self._context = saves, context
        self._iterations, self._batch_size = iterations, batch_size
        self._images_each = iterations * batch_size + judged
        self._done, self._total = 0, networks * self._images_each

    def is_over(self, name: str) -> bool:
        """Return whether a network is finished: its rows are in `saves`."""
        over = any(row["network"] == name for row in self._saves.rows)
        if over:
            self._advance(self._images_each)
        return over

    def train(self, name: str, model: Learner, fit: Fit) -> None:
        """Train a network, from its last save if there is one.

        Raises:
            Interrupted: the process was asked to stop; everything is saved.
        """
        saved, begun_s = self._saves.resume(model, name), time.perf_counter()
        first: int = saved["step"] if saved else 0
        self._advance(first * self._batch_size)

        def after_step(step: int) -> None:
            self._advance(self._batch_size)
            self._saves.seconds_per_step[name] = (time.perf_counter() - begun_s) / (step - first)
            self._saves.reached(model, step, self._saves.facts, name)

        fit(start=first, after_step=after_step)

    def judge(
        self,
        name: str,
        model: Learner,
        found: Iterable[Found],
        *,
        size: Callable[[Found], int] = lambda _: 1,
    ) -> Iterator[Found]:
        """Yield the results of a trained network, and check for signals after each.

        Args:
            name: name of the network.
            model: the network, whose state is saved if a signal arrives.
            found: results, computed one by one.
            size: returns the number of images that a result is for.

        Raises:
            Interrupted: the process was asked to stop; everything is saved.
        """
        for one in found:
            yield one
            self._advance(size(one))
            self._saves.stop_if_asked(model, self._iterations, self._saves.facts, name)

    def _advance(self, num_images: int) -> None:
        self._done += num_images
        self._context.progress(self._done, self._total)


def pace(saves: Saves, *, full_iterations: int) -> dict[str, Any]:
    """Return, as facts, the time of a training step, and of the full number of steps.

    Args:
        saves: save points of the evaluation.
        full_iterations: steps of the shipped protocol.
    """
    seconds = saves.seconds_per_step
    return {
        "seconds_per_step": {name: round(s, 5) for name, s in seconds.items()},
        # For all networks, on this machine.
        "hours_at_full_length": round(sum(seconds.values()) * full_iterations / 3600, 2),
    }
