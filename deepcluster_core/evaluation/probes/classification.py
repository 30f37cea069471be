"""Classifiers on frozen features: trained, chosen by cross-validation and judged, in one go.

Suffixes: N images, B of a batch, V views of an image, K candidates, F folds, P probes, C classes,
D values of a view.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core import seeding
from deepcluster_core.evaluation.probes.classifiers import Probes, ProbeSgd
from deepcluster_core.evaluation.probes.values import Batches, Examples, Replay, Supply, Table

EVERYTHING = -1
"""The fold of a probe that learns from all images."""


@dataclass(frozen=True)
class Plan:
    """How classifiers learn and are chosen."""

    epochs: int
    sgd: ProbeSgd
    decays: tuple[float, ...]
    """K candidates; one of them needs no folds."""
    folds: int
    """F."""
    hidden: tuple[int, ...]
    """Units of each hidden layer; linear classifiers have none."""
    dropout: float
    """Probability before each layer of a classifier with hidden ones."""
    cache_bytes: int
    """Of values that never change, kept in main memory."""

    @property
    def probes(self) -> list[tuple[float, int]]:
        """Decay and fold of the P = K + K · F probes of a layer, those on everything first."""
        on_all = [(decay, EVERYTHING) for decay in self.decays]
        if len(self.decays) == 1:
            return on_all
        return on_all + [(decay, fold) for decay in self.decays for fold in range(self.folds)]


@dataclass(frozen=True)
class Task:
    """What is learnt, and what it is judged on."""

    training: Examples
    validation: Examples
    num_classes: int

    @property
    def chance(self) -> float:
        """Share of the validation images, 0 to 1, that are of the commonest training class."""
        commonest = np.bincount(self.training.class_N).argmax()
        return float(np.mean(self.validation.class_N == commonest))


@dataclass(frozen=True)
class Score:
    """Of the chosen classifier of a layer."""

    decay: float
    top1_N: tuple[float, ...]
    """Share of the validation images, 0 to 1, that it gets right after each epoch."""

    @property
    def best_epoch(self) -> int:
        """The first of the best, counted from 0."""
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

    Each candidate for the weight decay has a classifier that learns from all training images, and
    one per fold that learns from the others. All of them, of all layers, learn at the same time
    from the same batches. The candidate whose folds' classifiers get most of their held-out images
    right, by the central view, is the layer's choice (of equal ones the greatest), and its
    classifier on all images is the one that is reported. So the validation images choose nothing
    but, where the best epoch is reported, the epoch.

    Args:
        supply: of values.
        task: the images.
        plan: the protocol.
        seed: of everything random.
        after_batch: told how many images were learnt from.

    Returns:
        For each layer the score.

    Raises:
        TrainingError: weights are not finite any more.
    """
    return _Classification(supply, task, plan, seed).run(after_batch)


class _Classification:
    def __init__(self, supply: Supply, task: Task, plan: Plan, seed: int) -> None:
        self._supply, self._task, self._plan, self._seed = supply, task, plan, seed
        decays, fold_P = zip(*plan.probes, strict=True)
        self._fold_P1 = np.array(fold_P)[:, None]
        num_images = len(task.training.class_N)
        mixed_N = seeding.numpy_generator(seed, "folds").permutation(num_images)
        self._fold_N = mixed_N % plan.folds
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
        self._table = self._tabled()
        kept = 0 if self._table is None else supply.bytes_of(num_images)
        self._crops = Replay(
            lambda first: supply.crops(task.validation, first),
            limit_bytes=plan.cache_bytes - kept,
            device=frozen.device,
        )

    def _tabled(self) -> Table | None:
        """Return the values to train on, if they are the same in every epoch and fit."""
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
        """Go through the training images once."""
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
        """Return the share of validation images that the probes on everything get right: top1_K."""
        candidates = range(len(self._plan.decays))
        validation, num_crops = self._task.validation, self._supply.views.num_crops
        right = self._nothing_right(candidates)
        for rows, values in self._crops:
            for layer, values_BD in values.items():
                of_crops_KBC = self._probes[layer].probabilities(values_BD, candidates)
                mean_KBC = of_crops_KBC.unflatten(1, (len(rows), num_crops)).mean(dim=2)
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
                chance_PBC = self._probes[layer].probabilities(values_BD, in_folds)
                right_PB = _is_right(chance_PBC, training.class_N[rows])
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
        """Return, for each layer, int64 zeros (P,) on the device: a GPU is not waited for."""
        device = self._supply.frozen.device
        return {
            layer: torch.zeros(len(probes), dtype=torch.int64, device=device)
            for layer in self._probes
        }


def _is_right(chance_PBC: Tensor, class_B: NDArray[np.int64]) -> Tensor:
    return chance_PBC.argmax(dim=2) == torch.from_numpy(class_B).to(chance_PBC.device)


def _best(right_K: Sequence[int], decays: Sequence[float]) -> int:
    """Return the candidate with most right answers, of equal ones that with the greatest decay."""
    return max(range(len(decays)), key=lambda k: (right_K[k], decays[k]))
