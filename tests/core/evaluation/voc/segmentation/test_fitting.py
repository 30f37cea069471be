"""Every step depends on its number alone, and what is kept in memory changes nothing."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcluster_core.data.decode import Pixels
from deepcluster_core.errors import TrainingError
from deepcluster_core.evaluation.voc.fine_tuning import Part
from deepcluster_core.evaluation.voc.segmentation.fcn import Fcn, Mask, Transfer
from deepcluster_core.evaluation.voc.segmentation.fitting import Loading, Masked, fit, judge
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.training.learner import Sgd

SIZES = ((40, 60), (60, 40), (33, 47), (48, 48), (40, 60))


def fcn(*, lr: float = 0.05, part: Part = "fc6-8") -> Fcn:
    config = NetworkConfig(name="smallnet", image_size=32, dropout=0.5)
    sgd = Sgd(lr=lr, momentum=0.9, weight_decay=5e-4)
    return Fcn(
        build_network(config, channels=3, seed=1),
        classes=3,
        transfer=Transfer(part, part == "all", 8, sgd),
        device="cpu",
        precision="float32",
        seed=7,
    )


class Pictures:
    """Five of different sizes, and how often each was read."""

    def __init__(self) -> None:
        self.read = Counter[int]()

    def picture(self, row: int) -> Pixels:
        self.read[row] += 1
        return np.random.default_rng(row).integers(0, 256, (*SIZES[row], 3)).astype(np.uint8)

    def mask(self, row: int) -> Mask:
        return np.full(SIZES[row], row % 3, np.uint8)

    def masked(self) -> Masked:
        return Masked(self.picture, self.mask, len(SIZES))


def loading(cache_bytes: int, *, workers: int = 1) -> Loading:
    return Loading(batch_size=2, workers=workers, seed=5, cache_bytes=cache_bytes)


def fitted(pictures: Pictures, how: Loading, part: Part = "fc6-8") -> dict[str, Tensor]:
    model, told = fcn(part=part), list[int]()
    fit(model, pictures.masked(), how, iterations=20, start=0, after_step=told.append)
    assert told == list(range(1, 21))
    return model.state()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


def test_fit__the_result_does_not_depend_on_what_is_kept() -> None:
    nothing, everything, some = Pictures(), Pictures(), Pictures()
    states = [
        fitted(nothing, loading(0)),
        fitted(everything, loading(10**9)),
        fitted(some, loading(60_000, workers=2)),
    ]
    assert same(states[0], states[1])
    assert same(states[0], states[2])
    assert nothing.read.total() == 40
    # Read once, or again by a thread that was ahead of the map.
    assert everything.read.total() <= 2 * len(SIZES)
    assert min(some.read.values()) < max(some.read.values()) == 8


@pytest.mark.slow
def test_fit__maps_that_change_are_not_kept() -> None:
    pictures = Pictures()
    state = fitted(pictures, loading(10**9), "all")
    assert pictures.read.total() == 40
    assert same(state, fitted(Pictures(), loading(0), "all"))


def test_fit__sees_every_picture_as_often() -> None:
    pictures = Pictures()
    fitted(pictures, loading(0))
    assert set(pictures.read.values()) == {8}


def test_fit__says_when_the_loss_is_not_finite() -> None:
    model = fcn(lr=1e30)
    with pytest.raises(TrainingError, match="lower lr"):
        fit(
            model,
            Pictures().masked(),
            loading(0),
            iterations=12,
            start=0,
            after_step=lambda _: None,
        )


def test_judge__yields_every_picture_in_order_with_its_truth() -> None:
    pictures = Pictures()
    judged = list(judge(fcn(), pictures.masked(), loading(0, workers=2)))
    assert [row for row, _, _ in judged] == list(range(5))
    for row, truth_HW, found_HW in judged:
        assert (truth_HW == row % 3).all()
        assert truth_HW.shape == found_HW.shape == SIZES[row]
