"""Train classifiers on frozen features, choose among them by cross-validation, and judge them.

Suffixes: N images, B of a batch, V views of an image, K candidates, F folds, P probes, C classes,
D values of a view.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core import seeding
from deepcluster_core.evaluation.probes.classifiers import Probes, ProbeSgd
from deepcluster_core.evaluation.probes.values import Batches, Examples, Replay, Supply, Table

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
        return on_everything + list(product(self.decays, range(self.folds)))


@dataclass(frozen=True)
class Task:
    """The images to train on and to judge on."""

    training: Examples
    validation: Examples
    num_classes: int

    @property
    def chance(self) -> float:
        """Fraction of the validation images, 0 to 1, that have the commonest training class."""
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

    Args:
        supply: computes the values that the classifiers read.
        task: the images.
        plan: settings of the training and of the choice.
        seed: seed of everything random.
        after_batch: called with the number of images after each training batch.

    Returns:
        The score of each layer.

    Raises:
        TrainingError: weights are no longer finite.
    """
    return _Classification(supply, task, plan, seed).run(after_batch)


class _Classification:
    def __init__(self, supply: Supply, task: Task, plan: Plan, seed: int) -> None:
        self._supply, self._task, self._plan, self._seed = supply, task, plan, seed
        decays, fold_P = zip(*plan.probes, strict=True)
        self._fold_P1 = np.array(fold_P)[:, None]
        num_images = len(task.training.class_N)
        shuffled_N = seeding.numpy_generator(seed, "folds").permutation(num_images)
        self._fold_N = shuffled_N % plan.folds
        frozen = supply.frozen
        self._probes = {
            layer: Probes(
                (dim, *plan.hidden, task.num_classes),
                decays=decays,
                sgd=plan.sgd,
                dropout=plan.dropout,
                seed=seeding.derive(seed, layer),
                device=frozen.device,
                precision=frozen.precision,
            )
            for layer, dim in frozen.numbers.items()
        }
        self._table = self._fixed_training_values()
        table_bytes = 0 if self._table is None else supply.bytes_of(num_images)
        self._crops = Replay(
            lambda first: supply.crops(task.validation, first),
            limit_bytes=plan.cache_bytes - table_bytes,
            device=frozen.device,
        )

    def _fixed_training_values(self) -> Table | None:
        """Return the values to train on if they are equal in every epoch and fit into memory."""
        training = self._task.training
        if not self._supply.views.are_fixed:
            return None
        if self._supply.bytes_of(len(training.class_N)) > self._plan.cache_bytes:
            return None
        return Table(self._supply, training)

    def run(self, after_batch: Callable[[int], None]) -> dict[str, Score]:
        top1 = {layer: list[NDArray[np.float64]]() for layer in self._probes}
        for epoch in range(self._plan.epochs):
            self._learn(epoch, after_batch)
            for layer, top1_K in self._judge().items():
                top1[layer].append(top1_K)
        chosen = self._choose()
        return {
            layer: Score(self._plan.decays[k], tuple(float(top1_K[k]) for top1_K in top1[layer]))
            for layer, k in chosen.items()
        }

    def _learn(self, epoch: int, after_batch: Callable[[int], None]) -> None:
        """Train all probes on one pass over the training images."""
        training, device = self._task.training, self._supply.frozen.device
        for rows, values in self._training_batches(epoch):
            class_B = torch.from_numpy(training.class_N[rows]).to(device)
            counts_PB = torch.from_numpy(self._fold_N[rows] != self._fold_P1).to(device)
            for layer, values_BD in values.items():
                self._probes[layer].learn(values_BD, class_B, counts_PB)
            after_batch(len(rows))
        for probes in self._probes.values():
            probes.refuse_nonfinite()

    def _training_batches(self, epoch: int) -> Batches:
        training = self._task.training
        order = seeding.numpy_generator(self._seed, epoch, "order")
        order_N = order.permutation(len(training.class_N))
        if self._table is not None:
            return self._table.batches(order_N)
        return self._supply.training(
            training, order_N, seeding.derive(self._seed, epoch, "augment")
        )

    def _judge(self) -> dict[str, NDArray[np.float64]]:
        """Return top1_K: the accuracy on the validation images of the probes on everything."""
        candidates = range(len(self._plan.decays))
        validation, num_crops = self._task.validation, self._supply.views.num_crops
        right = self._nothing_right(candidates)
        for rows, values in self._crops:
            for layer, values_BD in values.items():
                # A row per crop; the prediction for an image is the mean over its crops.
                crops_KBC = self._probes[layer].probabilities(values_BD, candidates)
                mean_KBC = crops_KBC.unflatten(1, (len(rows), num_crops)).mean(dim=2)
                right[layer] += _is_right(mean_KBC, validation.class_N[rows]).sum(dim=1)
        return {n: total_K.cpu().numpy() / len(validation.class_N) for n, total_K in right.items()}

    def _choose(self) -> dict[str, int]:
        """Return, for each layer, the number of the best candidate in cross-validation."""
        decays = self._plan.decays
        if len(decays) == 1:
            return dict.fromkeys(self._probes, 0)
        training, in_folds = self._task.training, range(len(decays), len(self._fold_P1))
        right = self._nothing_right(in_folds)
        for rows, values in self._central_batches():
            held_out_PB = torch.from_numpy(self._fold_N[rows] == self._fold_P1[in_folds])
            for layer, values_BD in values.items():
                probability_PBC = self._probes[layer].probabilities(values_BD, in_folds)
                right_PB = _is_right(probability_PBC, training.class_N[rows])
                right[layer] += (right_PB & held_out_PB.to(right_PB.device)).sum(dim=1)
        return {
            layer: _best(total_P.view(len(decays), -1).sum(dim=1).tolist(), decays)
            for layer, total_P in right.items()
        }

    def _central_batches(self) -> Batches:
        training = self._task.training
        if self._table is not None:
            return self._table.batches(np.arange(len(training.class_N)))
        return self._supply.central(training)

    def _nothing_right(self, probes: range) -> dict[str, Tensor]:
        """Return int64 zeros (P,) for each layer.

        The counters stay on the device, so that counting does not wait for a GPU.
        """
        device = self._supply.frozen.device
        return {
            layer: torch.zeros(len(probes), dtype=torch.int64, device=device)
            for layer in self._probes
        }


def _is_right(probability_PBC: Tensor, class_B: NDArray[np.int64]) -> Tensor:
    return probability_PBC.argmax(dim=2) == torch.from_numpy(class_B).to(probability_PBC.device)


def _best(right_K: Sequence[int], decays: Sequence[float]) -> int:
    """Return the candidate with most correct answers; ties go to the greatest decay."""
    return max(range(len(decays)), key=lambda k: (right_K[k], decays[k]))
