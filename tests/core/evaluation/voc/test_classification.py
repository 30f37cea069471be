"""Loss, crops and judgement of several questions about an image. Suffixes: B images, V views, C."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deepcluster_core.data.views import RandomCrop
from deepcluster_core.errors import TrainingError
from deepcluster_core.evaluation.voc.classification import (
    Crops,
    Loading,
    Marked,
    fit,
    judge,
    masked_loss,
)
from deepcluster_core.evaluation.voc.fine_tuning import FineTuned, Start, Tuning
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.training.learner import Sgd

CROP = RandomCrop(area=(0.1, 0.5), ratio=(1.0, 1.0), flip=0.5)
LOADING = Loading(Crops(CROP, 16, 10), batch_size=8, workers=1, seed=3)
MARKS_BC = torch.tensor([[1, -1, 0], [-1, 0, 1]], dtype=torch.int8)


def model(*, lr: float = 0.01) -> FineTuned:
    built = build_network(NetworkConfig(name="smallnet", image_size=16), channels=3, seed=1)
    sgd = Sgd(
        lr=lr, lr_factor=0.5, lr_factor_every=100, momentum=0.9, weight_decay=0.0, clip_norm=10.0
    )
    tuning = Tuning("fc6-8", False, Start(0.06, 0.1), sgd)
    return FineTuned(built, outputs=2, tuning=tuning, device="cpu", precision="float32", seed=7)


def marked(count: int = 12) -> Marked:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (20, 26 + n % 3, 3), np.uint8) for n in range(count)]
    mark_NC = np.where(generator.random((count, 2)) < 0.5, 1, -1).astype(np.int8)
    return Marked(lambda row: pictures[row], mark_NC)


def logits(requires_grad: bool = False) -> Tensor:
    return torch.tensor([[0.5, -1.0, 3.0], [2.0, 8.0, -0.5]], requires_grad=requires_grad)


def test_masked_loss__is_the_sum_over_classes_divided_by_the_batch() -> None:
    by_hand = sum(
        -functional.logsigmoid(torch.tensor(sign * logit))
        for sign, logit in [(1, 0.5), (-1, -1.0), (-1, 2.0), (1, -0.5)]
    )
    assert float(masked_loss(logits(), MARKS_BC)) == pytest.approx(float(by_hand) / 2)


def test_masked_loss__difficult_ones_have_no_gradient() -> None:
    logits_BC = logits(requires_grad=True)
    masked_loss(logits_BC, MARKS_BC).backward()
    assert logits_BC.grad is not None
    assert torch.equal(logits_BC.grad == 0, MARKS_BC == 0)


def test_fit__from_the_middle_ends_with_the_same_bytes() -> None:
    whole, first, second = model(), model(), model()
    fit(whole, marked(), LOADING, iterations=4, start=0, after_step=lambda step: None)

    halfway: dict[str, Tensor] = {}
    told: list[int] = []

    def after_step(step: int) -> None:
        told.append(step)
        if step == 2:
            halfway.update({name: tensor.clone() for name, tensor in first.state().items()})

    fit(first, marked(), LOADING, iterations=4, start=0, after_step=after_step)
    second.restore(halfway)
    fit(second, marked(), LOADING, iterations=4, start=2, after_step=lambda step: None)

    assert told == [1, 2, 3, 4]
    expected, found = whole.state(), second.state()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_fit__stops_when_the_loss_is_lost() -> None:
    with pytest.raises(TrainingError, match="no longer finite"):
        fit(
            model(lr=1e30),
            marked(),
            LOADING,
            iterations=12,
            start=0,
            after_step=lambda step: None,
        )


def judged(crops: Crops, *, batch_size: int = 8, workers: int = 1) -> NDArray[np.float32]:
    loading = Loading(crops, batch_size=batch_size, workers=workers, seed=3)
    return np.concatenate(list(judge(model(), marked(), loading)))


def test_judge__sums_the_crops_of_each_image_whatever_the_batches() -> None:
    crops = Crops(CROP, 16, 3)
    alone = judged(crops, batch_size=3)
    assert alone.shape == (12, 2)
    np.testing.assert_allclose(judged(crops, batch_size=16, workers=2), alone, rtol=1e-4)


def test_judge__sums_and_does_not_average() -> None:
    flat = np.full((20, 20, 3), 90, np.uint8)  # all of whose crops are the same
    images = Marked(lambda row: flat, np.ones((2, 2), np.int8))
    once, thrice = (
        next(judge(model(), images, Loading(Crops(CROP, 16, count), 6, 1, 3))) for count in (1, 3)
    )
    np.testing.assert_allclose(thrice[0], 3 * once[0], rtol=1e-5)


def test_judge__takes_ten_fixed_crops_or_five_without_mirrors() -> None:
    assert Crops(CROP, 16, "fixed").num_judged == 10
    unflipped = RandomCrop(CROP.area, CROP.ratio, flip=0.0)
    assert Crops(unflipped, 16, "fixed").num_judged == 5
    fixed = judged(Crops(CROP, 16, "fixed"), batch_size=20)
    assert fixed.shape == (12, 2)
    np.testing.assert_allclose(judged(Crops(CROP, 16, "fixed")), fixed, rtol=1e-4)
