"""Evaluations that fine-tune each compared network on other data, and judge it there.

Networks take turns. Training is saved on the way, so an evaluation that was interrupted resumes
where it was.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.config import Precision
from deepcluster_core.evaluation.voc.fine_tuning import Part
from deepcluster_core.interrupts import held_back
from deepcluster_core.models.network import Network
from deepcluster_core.precision import computed_in
from deepcluster_core.training.learner import Learner
from stages.evaluations.shared.checkpointing import FinishedNetworks
from stages.evaluations.shared.networks import ComparedNetworks
from stages.evaluations.shared.progress import ProgressCounter
from stages.evaluations.shared.protocol import PROTOCOLS
from stages.evaluations.shared.results import Row

Model = TypeVar("Model", bound=Learner)
Found = TypeVar("Found")


class Fit(Protocol):
    """Trains a model."""

    def __call__(self, *, start: int, after_step: Callable[[int], None]) -> None:
        """Train from step `start` on; `after_step` receives the number of completed steps."""
        ...


class FineTuning(ABC, Generic[Model, Found]):
    """How one network is trained and judged."""

    def __init__(self, *, iterations: int, batch_size: int, num_judged: int) -> None:
        """Take the numbers that the progress needs.

        Args:
            iterations: training steps of each network.
            batch_size: images in a step.
            num_judged: images that each network judges.
        """
        self.iterations, self.batch_size, self.num_judged = iterations, batch_size, num_judged
        self.masks: dict[str, list[str]] = {}
        """By network, masks to draw when all are finished: PNG files in base 64."""

    @abstractmethod
    def build(self, network: Network) -> Model:
        """Return a model for the data, made from a pretrained network."""

    @abstractmethod
    def fitting(self, model: Model) -> Fit:
        """Return the function that trains the model."""

    @abstractmethod
    def judge(self, model: Model) -> Iterable[Found]:
        """Return what the model finds in each image, computed one by one."""

    @abstractmethod
    def rows(self, name: str, found: Iterable[Found]) -> Iterable[Row]:
        """Return the rows of a network from what it finds."""


def evaluate_each(
    draft: Draft, networks: ComparedNetworks, tuning: FineTuning[Model, Found]
) -> FinishedNetworks:
    """Train and judge each network, from where an earlier attempt was interrupted.

    Returns:
        The rows of all networks.

    Raises:
        Interrupted: the process was asked to stop; everything is saved.
    """
    images_each = tuning.iterations * tuning.batch_size + tuning.num_judged
    counter = ProgressCounter(draft.context, len(networks) * images_each)
    with held_back() as held:
        finished = FinishedNetworks(draft, held, masks=tuning.masks)
        for name, network in networks:
            if any(row["network"] == name for row in finished.rows):
                counter.advance(images_each)
                continue
            model = tuning.build(network)
            _train(name, model, tuning, finished, counter)
            found = _judged(name, model, tuning, finished, counter)
            finished.add(list(tuning.rows(name, found)))
    return finished


def _train(
    name: str,
    model: Model,
    tuning: FineTuning[Model, Found],
    finished: FinishedNetworks,
    counter: ProgressCounter,
) -> None:
    """Train a network, from its last save if there is one."""
    saved, begun_s = finished.resume(model, name), time.perf_counter()
    first: int = saved["step"] if saved else 0
    counter.advance(first * tuning.batch_size)

    def after_step(step: int) -> None:
        counter.advance(tuning.batch_size)
        finished.seconds_per_step[name] = (time.perf_counter() - begun_s) / (step - first)
        finished.reached(model, step, finished.facts, name)

    tuning.fitting(model)(start=first, after_step=after_step)


def _judged(
    name: str,
    model: Model,
    tuning: FineTuning[Model, Found],
    finished: FinishedNetworks,
    counter: ProgressCounter,
) -> Iterator[Found]:
    """Yield what a trained network finds in each image, and check for signals after each."""
    for one in tuning.judge(model):
        yield one
        counter.advance()
        finished.stop_if_asked(model, tuning.iterations, finished.facts, name)


class TunedProtocol(Protocol):
    """What the protocols of these evaluations have in common."""

    @property
    def train(self) -> Part: ...  # noqa: D102
    @property
    def precision(self) -> Precision: ...  # noqa: D102


@dataclass(frozen=True)
class Split:
    """What is trained on and what is judged, as facts of the result."""

    trained_on: str
    judged_on: str
    classes: int
    training_images: int
    judged_images: int


def shipped_path(evaluation: str, train: Part) -> Path:
    """Return the file with the numbers of the paper, or of the code it names, for a mode."""
    variant = "" if train == "fc6-8" else f"-{train}"
    return PROTOCOLS / f"{evaluation}{variant}.yaml"


def facts_of(
    draft: Draft,
    protocol: TunedProtocol,
    finished: FinishedNetworks,
    split: Split,
    *,
    full_iterations: int,
) -> dict[str, Any]:
    """Return what the table does not say.

    Args:
        draft: artifact of the evaluation.
        protocol: that was followed.
        finished: all networks.
        split: what was trained on and judged.
        full_iterations: steps of the shipped protocol.
    """
    seconds = finished.seconds_per_step
    return {
        "seconds_per_step": {name: round(s, 5) for name, s in seconds.items()},
        # For all networks, on this machine.
        "hours_at_full_length": round(sum(seconds.values()) * full_iterations / 3600, 2),
        "train": protocol.train,
        **asdict(split),
        "precision": computed_in(draft.context.device, protocol.precision),
    }
