"""Suffixes: N images, B of a batch, D values, F folds, S side of a view, C channels."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deepcluster_core import seeding
from deepcluster_core.data.views import center_view
from deepcluster_core.evaluation.crops import Views, fixed_crops
from deepcluster_core.evaluation.probes.classification import Plan, Score, Task, classify
from deepcluster_core.evaluation.probes.classifiers import Probes, ProbeSgd
from deepcluster_core.evaluation.probes.pooling import Frozen
from deepcluster_core.evaluation.probes.values import Batches, Examples, Replay, Supply
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from tests.margins import SHIFT, above

SIZE, SEED, CLASSES, LR = 16, 11 + SHIFT, 3, 0.01
LAYERS = ("conv2", "conv4")
FIXED = Views(20, SIZE, random_crop=False, flip=0)
RANDOM = Views(20, SIZE, random_crop=True, flip=0.5)
PLAN = Plan(
    epochs=8,
    sgd=ProbeSgd(LR, 0.9),
    decays=(0.0001, 0.1),
    folds=3,
    hidden=(),
    dropout=0.0,
    cache_bytes=1 << 30,
)


def examples(num: int, *, seed: int) -> Examples:
    """Return noisy stripes: lying, standing or none at all."""
    generator = np.random.default_rng(seed)
    class_N = generator.integers(CLASSES, size=num)
    stripes_HW = 60 * (np.arange(20)[:, None] // 2 % 2) * np.ones((1, 20), np.int64)
    of_class = (stripes_HW, stripes_HW.T, np.zeros_like(stripes_HW))
    noise_NHW = generator.integers(0, 160, (num, 20, 20))
    pictures = [
        (of_class[c] + noise_HW)[:, :, None].astype(np.uint8)
        for c, noise_HW in zip(class_N, noise_NHW, strict=True)
    ]
    return Examples(pictures.__getitem__, class_N)


TASK = Task(examples(90, seed=0), examples(40, seed=1), CLASSES)


def supply(views: Views, *, workers: int = 2) -> Supply:
    config = NetworkConfig(name="smallnet", image_size=SIZE)
    network = build_network(config, channels=1, seed=0)
    frozen = Frozen(network, LAYERS, size=SIZE, device="cpu", precision="float32")
    return Supply(frozen, views, batch_size=32, workers=workers)


def classified(plan: Plan = PLAN, *, views: Views = FIXED, workers: int = 2) -> dict[str, Score]:
    return classify(
        supply(views, workers=workers), TASK, plan, seed=SEED, after_batch=lambda _: None
    )


class Reference:
    """The protocol for one layer by the modules of torch, one classifier after the other."""

    def __init__(self, layer: str) -> None:
        frozen = supply(FIXED).frozen

        def values(views: list[np.ndarray]) -> Tensor:
            return frozen(np.stack(views))[layer]

        pictures = map(TASK.training.picture, range(90))
        self.layer, self.dim = layer, frozen.numbers[layer]
        self.training_ND = values([center_view(p, resize=20, size=SIZE) for p in pictures])
        self.crops_ND = torch.cat(
            [values(list(fixed_crops(TASK.validation.picture(i), FIXED))) for i in range(40)]
        )
        self.class_N = torch.from_numpy(TASK.training.class_N)

    def trained(self, decay: float, counts_N: Tensor) -> Iterator[nn.Linear]:
        """Yield the classifier after each epoch."""
        linear = self._initial()
        sgd = torch.optim.SGD(linear.parameters(), lr=LR, momentum=0.9, weight_decay=decay)
        step = 0
        for epoch in range(PLAN.epochs):
            order = seeding.numpy_generator(SEED, epoch, "order").permutation(90)
            for start in range(0, 90, 32):
                batch = torch.from_numpy(order[start : start + 32])
                batch = batch[counts_N[batch]]
                sgd.param_groups[0]["lr"] = LR / (1 + LR * decay * step) ** 0.5
                sgd.zero_grad()
                cross_entropy(linear(self.training_ND[batch]), self.class_N[batch]).backward()
                sgd.step()
                step += 1
            yield linear

    def _initial(self) -> nn.Linear:
        stacked = Probes(
            (self.dim, CLASSES),
            decays=(0.0,),
            sgd=PLAN.sgd,
            dropout=0,
            seed=seeding.derive(SEED, self.layer),
            device="cpu",
            precision="float32",
        )
        linear = nn.Linear(self.dim, CLASSES)
        linear.weight = nn.Parameter(stacked.weights[0][0].detach().clone())
        linear.bias = nn.Parameter(stacked.weights[1][0].detach().clone())
        return linear

    def held_out_right(self, decay: float) -> int:
        fold_N = torch.from_numpy(seeding.numpy_generator(SEED, "folds").permutation(90) % 3)
        right = 0
        for fold in range(3):
            *_, linear = self.trained(decay, fold_N != fold)
            guess_N = linear(self.training_ND).argmax(1)
            right += int(((guess_N == self.class_N) & (fold_N == fold)).sum())
        return right

    def top1(self, decay: float) -> list[float]:
        truth_N = torch.from_numpy(TASK.validation.class_N)
        everything_N = torch.ones(90, dtype=torch.bool)
        return [
            float((self._of_crops(linear) == truth_N).double().mean())
            for linear in self.trained(decay, everything_N)
        ]

    def _of_crops(self, linear: nn.Linear) -> Tensor:
        return linear(self.crops_ND).softmax(1).view(40, 5, CLASSES).mean(1).argmax(1)


@pytest.mark.parity
@pytest.mark.learns
def test_classify__equals_one_classifier_at_a_time() -> None:
    scores = classified()

    assert list(scores) == list(LAYERS)
    for layer, score in scores.items():
        reference = Reference(layer)
        right = {decay: reference.held_out_right(decay) for decay in PLAN.decays}
        assert right[score.decay] == max(right.values())
        assert score.top1_N == pytest.approx(reference.top1(score.decay))
    best = max(scores["conv4"].top1_N)
    assert above("classifiers: top-1", best, 0.6), "a third is chance"


def test_classify__chooses_the_decay_that_leaves_something_learnt() -> None:
    # At the second the penalty alone overshoots, and weights go back and forth without end.
    scores = classified(replace(PLAN, decays=(0.001, 60.0)))
    assert {score.decay for score in scores.values()} == {0.001}


def test_classify__of_equal_candidates_takes_the_greatest() -> None:
    scores = classified(replace(PLAN, decays=(1e-9, 3e-9, 2e-9), epochs=1))
    assert {score.decay for score in scores.values()} == {3e-9}


def test_classify__takes_a_single_candidate_as_it_is() -> None:
    plan = replace(PLAN, decays=(0.1,))
    assert plan.probes == [(0.1, -1)], "no folds"
    alone = classified(plan)
    beside_others = classified(replace(PLAN, decays=(0.1, 60.0)))
    for layer, score in alone.items():
        assert score.decay == 0.1
        assert score.top1_N == pytest.approx(beside_others[layer].top1_N)


@pytest.mark.parametrize("views", [FIXED, RANDOM], ids=["fixed", "random"])
def test_classify__does_the_same_again_with_any_workers_and_memory(views: Views) -> None:
    expected = classified(views=views)
    assert classified(views=views, workers=1) == expected
    assert classified(replace(PLAN, cache_bytes=0), views=views, workers=3) == expected


def test_classify__tells_of_every_image() -> None:
    told: list[int] = []
    classify(supply(FIXED), TASK, PLAN, seed=SEED, after_batch=told.append)
    assert told == [32, 32, 26] * PLAN.epochs


def test_score__has_the_first_of_the_best_epochs() -> None:
    assert Score(0.0, (0.2, 0.7, 0.7, 0.5)).best_epoch == 1


def test_task__chance_is_to_guess_the_commonest_class() -> None:
    pictures = examples(1, seed=0).picture
    training = Examples(pictures, np.array([0, 1, 1, 1, 2]))
    assert Task(training, Examples(pictures, np.array([1, 0, 0, 2])), 3).chance == 0.25


def test_replay__keeps_what_fits_and_computes_the_rest_again() -> None:
    first_computed: list[int] = []

    def compute(first: int) -> Batches:
        first_computed.append(first)
        for number in range(first, 5):
            yield np.array([number]), {"conv1": torch.full((1, 10), float(number))}

    replay = Replay(compute, limit_bytes=3 * 40 + 39, device="cpu")
    epochs = [[(int(rows[0]), float(v["conv1"][0, 0])) for rows, v in replay] for _ in range(3)]

    assert first_computed == [0, 3, 3]
    assert epochs == [[(number, float(number)) for number in range(5)]] * 3
