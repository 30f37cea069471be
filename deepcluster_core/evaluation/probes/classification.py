"""Train classifiers on frozen features, choose among them by cross-validation, and judge them.

Suffixes: N images, B of a batch, V views of an image, K candidates, F folds, P probes, C classes,
D values of a view.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core import seeding
from deepcluster_core.evaluation.probes.classifiers import Probes, ProbeSgd
from deepcluster_core.evaluation.probes.values import Batches, Examples, Replay, Supply, Table

Shares = NDArray[np.float64]
"""Fractions of images, 0 to 1."""

EVERYTHING = -1
"""The fold number of a probe that learns from all images."""


@dataclass(frozen=True)
class Plan:
    """The settings by which classifiers are trained and chosen."""

    epochs: int
    sgd: ProbeSgd
    decays: tuple[float, ...]
    """K candidates for the weight decay. A single candidate needs no folds."""
    folds: int
    """Number of folds of the cross-validation, F."""
    hidden: tuple[int, ...]
    """Units of each hidden layer; empty for linear classifiers."""
    dropout: float
    """Dropout probability before each layer of a classifier that has hidden layers."""
    cache_bytes: int
    """Main memory for values that never change."""

    @property
    def probes(self) -> list[tuple[float, int]]:
        """Decay and fold of each probe of a layer, first of those that learn from all images.

        There are P = K + K · F probes, or a single one if there is a single candidate.
        """
        on_everything = [(decay, EVERYTHING) for decay in self.decays]
        if len(self.decays) == 1:
            return on_everything
        in_folds = product(self.decays, range(self.folds))
        return [*on_everything, *in_folds]


@dataclass(frozen=True)
class Task:
    """The images to train on and to judge on."""

    training: Examples
    validation: Examples
    num_classes: int

    @property
    def chance(self) -> float:
        """Fraction of the validation images, 0 to 1, that have the commonest training class."""
        # Guessing this class is the best that a classifier can do without looking at images.
        commonest = np.bincount(self.training.class_N).argmax()
        return float(np.mean(self.validation.class_N == commonest))


@dataclass(frozen=True)
class Score:
    """The score of the chosen classifier of a layer."""

    decay: float
    top1_N: tuple[float, ...]
    """Fraction of the validation images, 0 to 1, that it classifies correctly, by epoch."""

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest accuracy, the first one of equals; counted from 0."""
        return int(np.argmax(self.top1_N))


def classify(
    supply: Supply,
    task: Task,
    plan: Plan,
    *,
    seed: int,
    after_batch: Callable[[int], None],
) -> dict[str, Score]:
    """Train classifiers on every layer of a frozen network, and judge them after every epoch.

    For each candidate of the weight decay there is one classifier that learns from all training
    images, and one per fold that learns from the images outside that fold. The classifiers of all
    layers learn side by side from shared batches.

    Each layer then chooses the candidate whose fold classifiers get most of their held-out images
    right, judged by the central view; ties go to the greatest decay. The candidate's classifier on
    all images is the one that is reported. The validation images therefore choose nothing, except
    for the epoch where the best epoch is reported.

    With several ranks, the classifiers are on the first one. The others only help to compute the
    values that never change.

    Args:
        supply: computes the values that the classifiers read.
        task: the images.
        plan: settings of the training and of the choice.
        seed: seed of everything random.
        after_batch: called with the number of images after each training batch.

    Returns:
        The score of each layer on the first rank; nothing on the others.

    Raises:
        TrainingError: weights are no longer finite.
    """
    values = _FixedValues(supply, task, plan)
    if supply.ranks.rank != 0:
        values.help()
        return {}
    return _Classification(values, supply, task, plan, seed).run(after_batch)


class _FixedValues:
    """The values that never change, as far as they are kept. All ranks compute them."""

    def __init__(self, supply: Supply, task: Task, plan: Plan) -> None:
        self._supply = supply
        self._task = task
        self._plan = plan
        # The training images come first; validation images are kept in the memory that is left.
        free_bytes = plan.cache_bytes
        self.table = self._fixed_training_values()
        """The values to train on; None if they change or do not fit."""
        if self.table is not None:
            free_bytes -= supply.bytes_of(len(task.training.class_N))
        self.crops = Replay(
            lambda first: supply.crops(task.validation, first),
            limit_bytes=free_bytes,
            device=supply.frozen.device,
            ranks=supply.ranks,
        )
        """The values to judge on."""

    def _fixed_training_values(self) -> Table | None:
        """Return the values to train on if they are equal in every epoch and fit into memory."""
        training = self._task.training
        if not self._supply.views.are_fixed:
            return None
        num_bytes = self._supply.bytes_of(len(training.class_N))
        if num_bytes > self._plan.cache_bytes:
            return None
        return Table(self._supply, training)

    def central_batches(self) -> Batches:
        """Return the values of the central views of all training images."""
        training = self._task.training
        if self.table is not None:
            return self.table.batches(np.arange(len(training.class_N)))
        return self._supply.central(training)

    def help(self) -> None:
        """Compute values for the first rank, in the order in which it reads them."""
        for _ in range(self._plan.epochs):
            _read_to_the_end(self.crops)
        needs_central_views = len(self._plan.decays) > 1 and self.table is None
        if needs_central_views:
            _read_to_the_end(self.central_batches())


def _read_to_the_end(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


class _Classification:
    """The classifiers, on the first rank."""

    def __init__(
        self,
        values: _FixedValues,
        supply: Supply,
        task: Task,
        plan: Plan,
        seed: int,
    ) -> None:
        self._values = values
        self._supply = supply
        self._task = task
        self._plan = plan
        self._seed = seed

        # A permutation modulo the number of folds makes folds of nearly equal size.
        num_images = len(task.training.class_N)
        shuffled_N = seeding.numpy_generator(seed, "folds").permutation(num_images)
        self._fold_N = shuffled_N % plan.folds
        decays, fold_P = zip(*plan.probes, strict=True)
        self._fold_P1 = np.array(fold_P)[:, None]

        frozen = supply.frozen
        self._probes: dict[str, Probes] = {}
        for layer, dim in frozen.numbers.items():
            self._probes[layer] = Probes(
                (dim, *plan.hidden, task.num_classes),
                decays=decays,
                sgd=plan.sgd,
                dropout=plan.dropout,
                seed=seeding.derive(seed, layer),
                device=frozen.device,
                precision=frozen.precision,
            )

    def run(self, after_batch: Callable[[int], None]) -> dict[str, Score]:
        # The candidate is chosen after the last epoch, so all of them are judged in each epoch.
        top1_by_layer: dict[str, list[Shares]] = {}
        for epoch in range(self._plan.epochs):
            self._learn(epoch, after_batch)
            for layer, top1_K in self._judge().items():
                top1_by_layer.setdefault(layer, []).append(top1_K)

        scores: dict[str, Score] = {}
        for layer, candidate in self._choose().items():
            by_epoch = top1_by_layer.get(layer, [])
            decay = self._plan.decays[candidate]
            top1 = tuple(float(top1_K[candidate]) for top1_K in by_epoch)
            scores[layer] = Score(decay, top1)
        return scores

    def _learn(self, epoch: int, after_batch: Callable[[int], None]) -> None:
        """Train all probes on one pass over the training images."""
        class_N = self._task.training.class_N
        for rows, values in self._training_batches(epoch):
            class_B = self._on_device(class_N[rows])
            # A probe does not learn from the images of its own fold.
            is_outside_PB = self._fold_N[rows] != self._fold_P1
            counts_PB = self._on_device(is_outside_PB)
            for layer, values_BD in values.items():
                self._probes[layer].learn(values_BD, class_B, counts_PB)
            after_batch(len(rows))
        for probes in self._probes.values():
            probes.check_finite()

    def _training_batches(self, epoch: int) -> Batches:
        training = self._task.training
        generator = seeding.numpy_generator(self._seed, epoch, "order")
        order_N = generator.permutation(len(training.class_N))
        if self._values.table is not None:
            return self._values.table.batches(order_N)
        views_seed = seeding.derive(self._seed, epoch, "augment")
        return self._supply.training(training, order_N, views_seed)

    def _judge(self) -> dict[str, Shares]:
        """Return top1_K: the accuracy on the validation images of the probes on everything."""
        candidates = range(len(self._plan.decays))
        class_N = self._task.validation.class_N
        num_crops = self._supply.views.num_crops
        num_right = self._zero_counts(len(candidates))
        for rows, values in self._values.crops:
            class_B = self._on_device(class_N[rows])
            for layer, values_BD in values.items():
                # A row per crop; the prediction for an image is the mean over its crops.
                crops_KBC = self._probes[layer].probabilities(values_BD, candidates)
                crops_KBVC = crops_KBC.unflatten(1, (len(rows), num_crops))
                is_right_KB = _is_right(crops_KBVC.mean(dim=2), class_B)
                num_right[layer] += is_right_KB.sum(dim=1)

        top1: dict[str, Shares] = {}
        for layer, num_right_K in num_right.items():
            top1[layer] = num_right_K.cpu().numpy() / len(class_N)
        return top1

    def _choose(self) -> dict[str, int]:
        """Return, for each layer, the number of the best candidate in cross-validation."""
        decays = self._plan.decays
        if len(decays) == 1:
            return dict.fromkeys(self._probes, 0)
        class_N = self._task.training.class_N
        # The probes on everything come first, see `Plan.probes`.
        in_folds = range(len(decays), len(self._fold_P1))
        num_right = self._zero_counts(len(in_folds))
        for rows, values in self._values.central_batches():
            class_B = self._on_device(class_N[rows])
            # An image judges only the probes that have not learnt from it.
            is_inside_PB = self._fold_N[rows] == self._fold_P1[in_folds]
            held_out_PB = self._on_device(is_inside_PB)
            for layer, values_BD in values.items():
                probability_PBC = self._probes[layer].probabilities(values_BD, in_folds)
                is_right_PB = _is_right(probability_PBC, class_B)
                num_right[layer] += (is_right_PB & held_out_PB).sum(dim=1)

        chosen: dict[str, int] = {}
        for layer, num_right_P in num_right.items():
            # The folds of a candidate lie side by side.
            num_right_K = num_right_P.view(len(decays), -1).sum(dim=1)
            chosen[layer] = _best(num_right_K.tolist(), decays)
        return chosen

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        """Return a small array on the device; the copy does not wait for earlier work there."""
        return torch.from_numpy(array).to(self._supply.frozen.device, non_blocking=True)

    def _zero_counts(self, num_probes: int) -> dict[str, Tensor]:
        """Return int64 zeros (P,) for each layer.

        The counters stay on the device, so that counting does not wait for a GPU.
        """
        device = self._supply.frozen.device
        counts: dict[str, Tensor] = {}
        for layer in self._probes:
            counts[layer] = torch.zeros(num_probes, dtype=torch.int64, device=device)
        return counts


def _is_right(probability_PBC: Tensor, class_B: Tensor) -> Tensor:
    return probability_PBC.argmax(dim=2) == class_B


def _best(right_K: Sequence[int], decays: Sequence[float]) -> int:
    """Return the candidate with most correct answers; ties go to the greatest decay."""

    def merit(candidate: int) -> tuple[int, float]:
        return right_K[candidate], decays[candidate]

    return max(range(len(decays)), key=merit)
