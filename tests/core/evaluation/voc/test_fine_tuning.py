"""What is trained, what stays, and how long a step may be. Suffixes: B images, S side, C."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core.evaluation.voc.fine_tuning import (
    FineTuned,
    Part,
    Start,
    Tuning,
    last_linear_layers,
)
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.training.learner import Sgd

GENTLE = Sgd(
    lr=0.01, lr_factor=0.5, lr_factor_every=10, momentum=0.9, weight_decay=1e-6, clip_norm=10.0
)


def network(name: str = "smallnet", *, size: int = 16) -> Network:
    """Return a network whose batch normalisation has seen images, as a checkpoint's has."""
    built = build_network(NetworkConfig(name=name, image_size=size), channels=3, seed=1)
    with torch.no_grad():
        built.train()(torch.from_numpy(views(16, size)).permute(0, 3, 1, 2))
    return built


def tuned(
    built: Network,
    *,
    part: Part = "fc6-8",
    train_batch_norm: bool = True,
    sgd: Sgd = GENTLE,
    start: Start = Start(std=0.05, bias=0.1),  # noqa: B008  frozen
) -> FineTuned:
    tuning = Tuning(part, train_batch_norm, start, sgd)
    return FineTuned(built, outputs=3, tuning=tuning, device="cpu", precision="float32", seed=7)


def views(count: int = 4, size: int = 16) -> NDArray[np.uint8]:
    shape = (count, size, size, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def pull(outputs_BC: Tensor) -> Tensor:
    """Return a loss that moves every output."""
    return ((outputs_BC - 1) ** 2).mean()


def learn(model: FineTuned, steps: int = 3) -> None:
    for step in range(steps):
        model.learn(views(), pull, step)


def changed(before: dict[str, Tensor], built: Network) -> set[str]:
    after = built.state_dict()
    return {name for name in after if not torch.equal(before[name], after[name])}


def copied(built: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in built.state_dict().items()}


def kinds(built: Network, names: set[str]) -> set[str]:
    modules = dict(built.named_modules())
    return {type(modules[name.rpartition(".")[0]]).__name__ for name in names}


def test_fc6_8__convolutions_and_statistics_stay_byte_for_byte() -> None:
    built = network()
    before = copied(built)

    learn(tuned(built))

    moved = changed(before, built)
    assert kinds(built, moved) == {"Linear", "BatchNorm2d"}
    assert not any("running" in name or "num_batches" in name for name in moved)


def test_fc6_8__with_frozen_batch_normalisation_maps_stay_what_they_were() -> None:
    built = network()
    images_BCSS = torch.from_numpy(views()).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = built.eval().layer_output(images_BCSS, "backbone.maps")

    model = tuned(built, train_batch_norm=False)
    with torch.no_grad():
        folded = built.layer_output(images_BCSS, "backbone.maps")
    before = copied(built)
    learn(model)

    assert kinds(built, changed(before, built)) == {"Linear"}
    torch.testing.assert_close(folded, expected)  # folded, the sums round otherwise
    assert not torch.equal(folded, torch.zeros_like(folded))


def test_all__everything_moves_but_the_statistics() -> None:
    built = network()
    before = copied(built)

    learn(tuned(built, part="all"))

    moved = changed(before, built)
    assert kinds(built, moved) == {"CpuConv2d", "Linear", "BatchNorm2d"}
    assert not any("running" in name or "num_batches" in name for name in moved)


def test_fine_tuned__linear_layers_begin_anew() -> None:
    built = network("alexnet", size=64)

    tuned(built, start=Start(std=0.02, bias=0.25))

    renewed = last_linear_layers(built.backbone)
    assert len(renewed) == 2
    for layer in renewed:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert (layer.bias == 0.25).all()


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [
        ("smallnet", 16, [256, 256]),
        ("alexnet", 64, [4096, 4096]),
        ("torchvision:resnet18", 32, []),
        ("torchvision:mobilenet_v3_small", 32, [1024]),
        ("torchvision:vit_b_32", 32, []),  # those inside its blocks do not count
    ],
)
def test_last_linear_layers__are_those_behind_everything_else(
    name: str, size: int, sizes: list[int]
) -> None:
    config = NetworkConfig(name=name, image_size=size)
    with torch.device("meta"):
        built = build_network(config, channels=3, seed=0)
    assert [layer.out_features for layer in last_linear_layers(built.backbone)] == sizes


def test_learn__scales_long_gradients_to_the_bound() -> None:
    def length_of_step(clip_norm: float, scale: float) -> float:
        built = network()
        once = Sgd(
            lr=1.0,
            lr_factor=0.5,
            lr_factor_every=9,
            momentum=0.0,
            weight_decay=0.0,
            clip_norm=clip_norm,
        )
        model = tuned(built, sgd=once)
        before = {name: tensor.clone() for name, tensor in model.state().items()}
        model.learn(views(), lambda outputs_BC: scale * pull(outputs_BC), 0)
        after = model.state()
        squares = [((after[name] - before[name]) ** 2).sum() for name in before]
        return torch.stack(squares).sum().sqrt().item()

    assert length_of_step(0.5, scale=1000.0) == pytest.approx(0.5, rel=1e-3)
    short = length_of_step(0.5, scale=1e-3)
    assert short < 0.1
    assert short == pytest.approx(length_of_step(10.0, scale=1e-3)), "short ones stay"


def test_learn__uses_dropout_that_depends_on_the_step_alone() -> None:
    first, again = tuned(network()), tuned(network())
    one, other = (float(model.learn(views(), pull, 5)) for model in (first, again))
    assert one == other
    assert float(tuned(network()).learn(views(), pull, 6)) != one
    assert torch.equal(first.outputs(views()), first.outputs(views())), "judged without"


def test_restore__goes_on_with_the_same_bytes() -> None:
    whole, first, second = tuned(network()), tuned(network()), tuned(network())
    learn(whole, 4)
    learn(first, 2)

    second.restore(first.state())
    for step in (2, 3):
        second.learn(views(), pull, step)

    expected, found = whole.state(), second.state()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(("step", "lr"), [(0, 0.01), (9, 0.01), (10, 0.005), (35, 0.00125)])
def test_lr_at__drops_every_so_often(step: int, lr: float) -> None:
    assert GENTLE.lr_at(step) == pytest.approx(lr)


def test_last_linear_layers__of_a_body_that_ends_in_a_convolution_are_none() -> None:
    layers: list[Any] = [nn.Linear(4, 4), nn.Conv2d(1, 1, 1)]
    assert last_linear_layers(nn.Sequential(*layers)) == []
