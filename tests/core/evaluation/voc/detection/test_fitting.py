"""Training on pictures of several sizes, with and without maps that are kept."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcluster_core.config import Precision
from deepcluster_core.data.decode import Pixels
from deepcluster_core.errors import TrainingError
from deepcluster_core.evaluation.voc.detection.detector import Design, Detector
from deepcluster_core.evaluation.voc.detection.fitting import Feeding, Pictured, fit, judge
from deepcluster_core.evaluation.voc.detection.sampling import Objects, Sampling
from deepcluster_core.evaluation.voc.detection.scaling import Scale
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.training.learner import Sgd
from tests.support.detection import DESIGN

SIZES = [(30, 40), (40, 30), (36, 50), (30, 30)]
SLOW = replace(
    DESIGN,
    sgd=Sgd(0.02, 0.9, 0.0005, 0.1, 1000, 10.0),
    sampling=Sampling(16, 0.25, 0.5, 0.1),
)
FEEDING = Feeding(Scale(48, 80), flip=0.5, batch_size=2, map_bytes=10**9, workers=2, seed=7)
ITERATIONS = 12  # of two pictures: each is asked for six times


def pictured(read: list[int] | None = None) -> Pictured:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]

    def picture(row: int) -> Pixels:
        if read is not None:
            read.append(row)
        return pictures[row]

    objects = Objects(torch.tensor([[3.0, 3, 20, 25]]), torch.tensor([1]))
    proposals_P4 = torch.tensor([[2.0, 2, 21, 24], [10, 10, 30, 30], [0, 0, 30, 30], [5, 0, 9, 99]])
    return Pictured(picture, [objects] * len(SIZES), lambda _row: proposals_P4)


def detector(design: Design = SLOW, precision: Precision = "float32") -> Detector:
    config = NetworkConfig(name="smallnet", image_size=32, dropout=0.2)
    network = build_network(config, channels=3, seed=1)
    return Detector(network, design, num_classes=1, device="cpu", precision=precision, seed=5)


def trained(
    model: Detector, feeding: Feeding = FEEDING, *, read: list[int] | None = None, start: int = 0
) -> dict[str, Tensor]:
    fit(
        model,
        pictured(read),
        feeding,
        iterations=ITERATIONS,
        start=start,
        after_step=lambda _done: None,
    )
    return model.state()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fit__the_result_does_not_depend_on_what_is_kept(precision: Precision) -> None:
    read: dict[int, list[int]] = {limit: [] for limit in (0, 60_000, 10**9)}
    states = [
        trained(detector(precision=precision), replace(FEEDING, map_bytes=limit), read=of_limit)
        for limit, of_limit in read.items()
    ]
    assert same(states[0], states[1])
    assert same(states[0], states[2])
    nothing, some, everything = (len(of_limit) for of_limit in read.values())
    assert nothing == 2 * ITERATIONS
    assert everything < some < nothing


@pytest.mark.parametrize("part", ["fc6-8", "all"])
def test_fit__maps_that_training_changes_are_never_kept(part: str) -> None:
    read: list[int] = []
    design = replace(SLOW, part=part, train_batch_norm=True)
    trained(detector(design), read=read)
    assert len(read) == 2 * ITERATIONS


@pytest.mark.parametrize("change", [{"workers": 1}, {"workers": 4}], ids=str)
def test_fit__does_not_depend_on_who_loads(change: dict[str, int]) -> None:
    assert same(trained(detector()), trained(detector(), replace(FEEDING, **change)))


def test_fit__goes_on_where_it_stopped() -> None:
    whole = trained(detector())
    states: dict[int, dict[str, Tensor]] = {}
    model = detector()

    def after_step(done: int) -> None:
        states[done] = {name: tensor.clone() for name, tensor in model.state().items()}

    fit(model, pictured(), FEEDING, iterations=ITERATIONS, start=0, after_step=after_step)
    assert list(states) == list(range(1, ITERATIONS + 1))
    other = detector()
    other.restore(states[5])
    assert same(trained(other, start=5), whole)


def test_fit__mirrors_half_of_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    before: Callable[..., Tensor] = Detector.map

    def noted(model: Detector, picture_HWC: Pixels, *, flipped: bool) -> Tensor:
        seen.append(flipped)
        return before(model, picture_HWC, flipped=flipped)

    monkeypatch.setattr(Detector, "map", noted)
    trained(detector(), replace(FEEDING, map_bytes=0))
    assert 6 < sum(seen) < 18
    assert len(seen) == 24


def test_fit__what_is_mirrored_takes_its_boxes_along() -> None:
    picture_HWC = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    box_P4 = torch.tensor([[3.0, 3, 20, 25], [2, 2, 21, 24], [10, 10, 30, 30], [0, 5, 30, 30]])
    mirrored_P4 = torch.stack((40 - box_P4[:, 2], box_P4[:, 1], 40 - box_P4[:, 0], box_P4[:, 3]), 1)
    states: list[dict[str, Tensor]] = []
    for pixels_HWC, all_P4, flip in (
        (picture_HWC, box_P4, 1.0),
        (np.ascontiguousarray(picture_HWC[:, ::-1]), mirrored_P4, 0.0),
    ):
        objects, model = Objects(all_P4[:1], torch.tensor([1])), detector()
        fit(
            model,
            Pictured(lambda _row, p=pixels_HWC: p, [objects], lambda _row, b=all_P4: b[1:]),
            replace(FEEDING, scale=Scale(30, 40), flip=flip),
            iterations=3,
            start=0,
            after_step=lambda _done: None,
        )
        states.append(model.state())
    assert same(*states)


def test_fit__a_loss_that_is_not_finite_is_told() -> None:
    wild = replace(SLOW, sgd=replace(SLOW.sgd, lr=1e30))
    with pytest.raises(TrainingError, match="lower lr"):
        trained(detector(wild))


def test_judge__boxes_are_in_pixels_of_the_picture() -> None:
    found = list(judge(detector(), pictured(), FEEDING))
    assert len(found) == len(SIZES)
    for one, (height, width) in zip(found, SIZES, strict=True):
        left, top, right, bottom = one.detections.box_K4.unbind(dim=1)
        assert len(left) > 0
        assert left.min() >= 0
        assert top.min() >= 0
        assert right.max() <= width + 1e-3
        assert bottom.max() <= height + 1e-3
        assert right.max() > width / 2, "not of a smaller picture"
        assert (one.num_proposals, one.proposed_O) == (4, [True])
