"""The training loop of evaluations that fine-tune each compared network on another data set.

Networks are trained and judged one after the other. Training is saved regularly, so an interrupted
evaluation resumes from its last save.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.config import Precision
from deepcluster_core.config_yaml import read_yaml
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
    """A function that trains a model."""

    def __call__(self, *, start: int, after_step: Callable[[int], None]) -> None:
        """Train from step `start` on; call `after_step` with the number of completed steps."""
        ...


class FineTuning(ABC, Generic[Model, Found]):
    """The steps that train and judge one network. Each evaluation implements them."""

    def __init__(self, *, iterations: int, batch_size: int, num_judged: int) -> None:
        """Store the numbers from which progress is computed.

        Args:
            iterations: training steps of each network.
            batch_size: images in a step.
            num_judged: images on which each network is judged.
        """
        self.iterations, self.batch_size, self.num_judged = iterations, batch_size, num_judged
        self.masks: dict[str, list[str]] = {}
        """Masks by network, to draw once all networks are finished: PNG files in base 64."""

    @abstractmethod
    def build(self, network: Network) -> Model:
        """Return a model for the data set, built from a pretrained network."""

    @abstractmethod
    def fitting(self, model: Model) -> Fit:
        """Return the function that trains the model."""

    @abstractmethod
    def judge(self, model: Model) -> Iterable[Found]:
        """Return an iterable of what the model finds in each image, computed one by one."""

    @abstractmethod
    def rows(self, name: str, found: Iterable[Found]) -> Iterable[Row]:
        """Return the result rows of a network, computed from what it found in each image."""


def evaluate_each(
    draft: Draft, networks: ComparedNetworks, tuning: FineTuning[Model, Found]
) -> FinishedNetworks:
    """Train and judge each network, continuing from the last save of an interrupted attempt.

    Returns:
        The rows of all networks.

    Raises:
        Interrupted: the process was asked to stop; everything is saved.
    """
    num_training_images = tuning.iterations * tuning.batch_size
    images_each = num_training_images + tuning.num_judged
    counter = ProgressCounter(draft.context, len(networks) * images_each)
    # A signal does not end the process at once, so that the state can be saved first.
    with held_back() as held:
        finished = FinishedNetworks(draft, held, masks=tuning.masks)
        for name, network in networks:
            # An earlier attempt finished this network: its rows are in the save.
            if any(row["network"] == name for row in finished.rows):
                counter.advance(images_each)
                continue
            model = tuning.build(network)
            _train(name, model, tuning, finished, counter)
            # Networks are judged while the rows are computed: `found` is a generator.
            found = _judged(name, model, tuning, finished, counter)
            rows = list(tuning.rows(name, found))
            finished.add(rows)
    return finished


def _train(
    name: str,
    model: Model,
    tuning: FineTuning[Model, Found],
    finished: FinishedNetworks,
    counter: ProgressCounter,
) -> None:
    """Train a network, from its last save if there is one."""
    saved = finished.resume(model, name)
    started_s = time.perf_counter()
    first_step: int = saved["step"] if saved else 0
    # Steps of earlier attempts count as progress.
    counter.advance(first_step * tuning.batch_size)

    def after_step(step: int) -> None:
        counter.advance(tuning.batch_size)
        # Only this attempt's steps count, since only they were timed.
        elapsed_s = time.perf_counter() - started_s
        finished.seconds_per_step[name] = elapsed_s / (step - first_step)
        finished.reached(model, step, finished.facts, name)

    fit = tuning.fitting(model)
    fit(start=first_step, after_step=after_step)


def _judged(
    name: str,
    model: Model,
    tuning: FineTuning[Model, Found],
    finished: FinishedNetworks,
    counter: ProgressCounter,
) -> Iterator[Found]:
    """Yield what a trained network finds in each image; stop there if a signal asked for it."""
    for one in tuning.judge(model):
        yield one
        counter.advance()
        finished.stop_if_asked(model, tuning.iterations, finished.facts, name)


class TunedProtocol(Protocol):
    """The keys that the protocols of these evaluations have in common."""

    @property
    def train(self) -> Part: ...  # noqa: D102
    @property
    def precision(self) -> Precision: ...  # noqa: D102


@dataclass(frozen=True)
class Split:
    """The data to train on and the data to judge on, as facts of the result."""

    trained_on: str
    judged_on: str
    classes: int
    training_images: int
    judged_images: int


def shipped_path(evaluation: str, train: Part) -> Path:
    """Return the shipped protocol of a mode, which has the numbers of the paper or its code."""
    # fc6-8 is the mode without a suffix.
    variant = "" if train == "fc6-8" else f"-{train}"
    return PROTOCOLS / f"{evaluation}{variant}.yaml"


def facts_of(
    draft: Draft,
    evaluation: str,
    protocol: TunedProtocol,
    finished: FinishedNetworks,
    split: Split,
) -> dict[str, Any]:
    """Return the facts of the result that its table does not hold.

    Args:
        draft: artifact of the evaluation.
        evaluation: name of the evaluation.
        protocol: the protocol that was followed.
        finished: the results of all networks.
        split: the data that was trained on and judged on.
    """
    seconds_per_step = finished.seconds_per_step
    # The shipped protocol has the full number of steps; the given one is often shortened.
    full_iterations: int = read_yaml(shipped_path(evaluation, protocol.train))["iterations"]
    full_seconds = sum(seconds_per_step.values()) * full_iterations
    return {
        "seconds_per_step": {name: round(s, 5) for name, s in seconds_per_step.items()},
        # An estimate for all networks together, on this machine.
        "hours_at_full_length": round(full_seconds / 3600, 2),
        "train": protocol.train,
        **asdict(split),
        "precision": computed_in(draft.context.device, protocol.precision),
    }
