"""What is scored, learnt and found. Suffixes: H rows, W columns, C channels or classes."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deepcluster_core.data.decode import Pixels
from deepcluster_core.evaluation.voc.dataset import VOID
from deepcluster_core.evaluation.voc.fine_tuning import Part
from deepcluster_core.evaluation.voc.segmentation import fcn as fcn_module
from deepcluster_core.evaluation.voc.segmentation.fcn import Fcn, Mask, Transfer
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.training.learner import Sgd
from tests.margins import SHIFT, below

GENTLE = Sgd(lr=0.01, momentum=0.9, weight_decay=5e-4)
SIZES = ((40, 60), (60, 40), (33, 47))


def network(*, sobel: bool = True, dropout: float = 0.0) -> Network:
    """Return a network whose batch normalisation has seen images, as a checkpoint's has."""
    config = NetworkConfig(name="smallnet", image_size=32, sobel=sobel, dropout=dropout)
    built = build_network(config, channels=3, seed=1 + SHIFT)
    with torch.no_grad():
        built.train()(
            torch.from_numpy(picture((32, 32))[None]).permute(0, 3, 1, 2).repeat(4, 1, 1, 1)
        )
    return built


def fcn(
    built: Network | None = None,
    *,
    part: Part = "fc6-8",
    train_batch_norm: bool = False,
    padding: int = 8,
) -> Fcn:
    transfer = Transfer(part, train_batch_norm, padding, GENTLE)
    return Fcn(
        built or network(),
        classes=3,
        transfer=transfer,
        device="cpu",
        precision="float32",
        seed=7 + SHIFT,
    )


def picture(size: tuple[int, int], seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def halves(size: tuple[int, int]) -> Mask:
    """Return a mask: class 1, then class 2, and void between them."""
    mask_HW = np.ones(size, np.uint8)
    mask_HW[:, size[1] // 2 :] = 2
    mask_HW[:, size[1] // 2] = VOID
    return mask_HW


def learn(model: Fcn, steps: int = 3) -> list[float]:
    pictures = [picture(size, seed) for seed, size in enumerate(SIZES)]
    masks = [halves(size) for size in SIZES]

    def loss_of() -> Tensor:
        return model.loss([model.map(picture_HWC) for picture_HWC in pictures], masks)

    return [float(model.descend(loss_of, step)) for step in range(steps)]


@torch.no_grad()
def loss(model: Fcn, pictures: list[Pixels], masks: list[Mask]) -> float:
    return float(model.loss([model.map(picture_HWC) for picture_HWC in pictures], masks))


def test_fcn__begins_without_a_guess() -> None:
    model = fcn()
    assert learn(model, 1) == [pytest.approx(math.log(3))]
    (mask_HW,) = fcn().masks([picture((40, 60))])
    assert mask_HW.shape == (40, 60)
    assert mask_HW.dtype == np.uint8
    assert not mask_HW.any()


@pytest.mark.learns
@pytest.mark.parametrize(
    ("part", "train_batch_norm"), [("fc6-8", False), ("fc6-8", True), ("all", True)]
)
def test_fcn__learns_its_part(*, part: Part, train_batch_norm: bool) -> None:
    built = network()
    model = fcn(built, part=part, train_batch_norm=train_batch_norm)
    before = {name: value.clone() for name, value in built.named_parameters()}

    losses = learn(model, 12)

    name = f"FCN: loss left, {part}, train_batch_norm {train_batch_norm}"
    # Measured with three seeds: 0.29 to 0.40 of fc6-8, 0.13 to 0.17 of all.
    assert below(name, losses[-1] / losses[0], 0.7)
    changed = {name for name, now in built.named_parameters() if (now != before[name]).any()}
    fc6_and_7 = {
        f"backbone.{name}.{kind}" for name in ("fc5", "fc6") for kind in ("weight", "bias")
    }
    normalised = {name for name in before if ".bn." in name}
    assert changed == (set(before) if part == "all" else fc6_and_7 | normalised)
    assert model.maps_change == train_batch_norm == bool(normalised)


def test_loss__is_the_mean_over_pixels_that_count_and_then_over_pictures() -> None:
    model = fcn()
    learn(model)
    pictures, masks = [picture(size) for size in SIZES[:2]], [halves(size) for size in SIZES[:2]]
    alone = [loss(model, *([one] for one in pair)) for pair in zip(pictures, masks, strict=True)]
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)
    assert loss(model, pictures, masks) == pytest.approx(np.mean(alone), rel=1e-5)

    # The losses of both halves, weighted by their pixels, are that of the picture.
    halves_HW = [np.where(masks[0] == number, number, VOID).astype(np.uint8) for number in (1, 2)]
    parts = [loss(model, pictures[:1], [half_HW]) for half_HW in halves_HW]
    weights = [int((half_HW != VOID).sum()) for half_HW in halves_HW]
    assert weights[0] != weights[1]
    assert np.average(parts, weights=weights) == pytest.approx(alone[0], rel=1e-5)


def test_loss__a_picture_without_a_pixel_that_counts_gives_none() -> None:
    model = fcn()
    void = np.full(SIZES[0], VOID, np.uint8)
    assert loss(model, [picture(SIZES[0])], [void]) == 0
    assert not math.isnan(loss(model, [picture(SIZES[0])] * 2, [void, halves(SIZES[0])]))


def test_masks__do_not_depend_on_the_pictures_beside() -> None:
    model = fcn()
    learn(model, 12)
    pictures = [picture(size, seed) for seed, size in enumerate(SIZES)]
    together = model.masks(pictures)
    assert {number for mask_HW in together for number in np.unique(mask_HW)} >= {1, 2}
    for picture_HWC, mask_HW in zip(pictures, together, strict=True):
        assert mask_HW.shape == picture_HWC.shape[:2]
        assert (model.masks([picture_HWC])[0] == mask_HW).mean() > 0.999, "but for rounding"


@pytest.mark.parity
def test_masks__are_those_of_fully_connected_layers_as_convolutions() -> None:
    model = fcn(padding=16)  # the first score lies at -0.5, the last as far beyond the end
    learn(model, 12)
    picture_HWC, state = picture((64, 96)), model.state()
    prefix = "network.backbone"
    weights = {
        f"{prefix}.fc5": state[f"{prefix}.fc5.weight"].unflatten(1, (256, 2, 2)),
        f"{prefix}.fc6": state[f"{prefix}.fc6.weight"][:, :, None, None],
        "fc8": state["fc8.weight"][:, :, None, None],
    }

    score_1Chw = model.map(picture_HWC)
    for name, weight in weights.items():
        hidden_1Chw = score_1Chw.relu()  # a map has gone through one
        score_1Chw = functional.conv2d(hidden_1Chw, weight, state[f"{name}.bias"])

    assert score_1Chw.shape == (1, 3, 64 // 16 + 1, 96 // 16 + 1)
    # Scores every 16 pixels from -0.5 on: enlarged to whole places, then between these.
    between = functional.interpolate(score_1Chw, (65, 97), mode="bilinear", align_corners=True)
    expected_HW = functional.avg_pool2d(between, 2, stride=1)[0].argmax(dim=0).numpy()
    (mask_HW,) = model.masks([picture_HWC])
    assert (mask_HW == expected_HW).mean() > 0.99, "the mean of four is bilinear but for a corner"
    assert len(np.unique(mask_HW)) > 1


def symmetric(model: Fcn, *, threshold: float) -> None:
    """Give the weights of a layer one value, and class 1 to what is brighter than a threshold."""
    state = model.state()
    for name, value in state.items():
        is_scale = name.endswith("bn.weight")
        mean = 1 / value[0].numel() if value.ndim > 1 else float(is_scale)
        state[name] = torch.full_like(value, mean)
    state["fc8.weight"][:] = torch.tensor([0.0, 1.0, 0.0])[:, None]
    state["fc8.bias"] = torch.tensor([threshold, 0.0, 0.0])
    model.restore(state)


@pytest.mark.parametrize("axis", [0, 1], ids=["upside down", "mirrored"])
def test_masks__lie_where_the_objects_are(axis: int) -> None:
    config = NetworkConfig(name="smallnet", image_size=32, sobel=False, dropout=0.0)
    built = build_network(config, channels=3, seed=1 + SHIFT)
    model = fcn(built, part="all", train_batch_norm=True)
    symmetric(model, threshold=0)
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None]
    with torch.no_grad():
        level = built(black_and_white.expand(2, 3, 32, 32)).sum(dim=1).mean()
    symmetric(model, threshold=float(level))
    picture_HWC = np.zeros((96, 160, 3), np.uint8)
    picture_HWC[18:52, 35:79] = 255

    (mask_HW,) = model.masks([picture_HWC])
    (turned_HW,) = model.masks([np.flip(picture_HWC, axis).copy()])

    # Scores a pixel beside their place would lie a pixel on the other side in what is turned.
    assert (np.flip(turned_HW, axis) == mask_HW).mean() > 0.999
    rows, columns = mask_HW.nonzero()
    assert (rows.mean(), columns.mean()) == pytest.approx((34.5, 56.5), abs=3)
    assert len(rows) < 2 * 34 * 44, "blurred by fields of 32 pixels, and no more"


def test_map__computed_again_has_the_gradients_of_one_that_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def plainly(function: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        return function(given)

    states = []
    for recomputes in (True, False):
        if not recomputes:
            monkeypatch.setattr(fcn_module, "_recomputed", plainly)
        model = fcn(network(dropout=0.5), part="all", train_batch_norm=True)
        learn(model)
        states.append({name: value.clone() for name, value in model.state().items()})
    first, second = states
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
