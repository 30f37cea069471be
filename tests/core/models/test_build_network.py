import math
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.build import (
    Footprint,
    build_network,
    build_without_weights,
    feature_dim_of,
    footprint_of,
)
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Backbone
from deepcluster_core.models.registry import NETWORKS, OWN_NETWORKS

SMALL = NetworkConfig(name="smallnet", image_size=32)


def test_build_network__same_seed_same_weights() -> None:
    first, again, other = (
        build_network(SMALL, channels=3, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.fc5.weight"], other["backbone.fc5.weight"])


def test_build_network__leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    build_network(SMALL, channels=3, seed=1)
    feature_dim_of(NetworkConfig(name="torchvision:regnet_y_400mf", image_size=32), channels=3)
    assert torch.equal(torch.random.get_rng_state(), before)


class Masked(nn.Module):
    """A layer with values that no state has, like the window masks of a Swin transformer."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([1.0, 0.0]).repeat(8), persistent=False)
        self.linear = nn.Linear(16, 4)

    def forward(self, images_NCSS: torch.Tensor) -> torch.Tensor:
        return self.linear(images_NCSS.mean(dim=(1, 2)) * self.mask)


def build_masked(name: str, **_sizes: object) -> Backbone:
    assert name == "masked"
    return Backbone(Masked(), feature_dim=4, relu_missing=False)


def test_build_without_weights__computes_values_that_no_state_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As a network of another package: those of this one have no such values.
    monkeypatch.setitem(NETWORKS, "timm:NAME", f"{__name__}:build_masked")
    config = NetworkConfig(name="timm:masked", image_size=16)
    trained = build_network(config, channels=3, seed=1).eval()

    restored = build_without_weights(config, channels=3).eval()
    restored.load_state_dict(trained.state_dict(), assign=True)

    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(restored.feature(images), trained.feature(images))


def test_build_network__is_ready_to_train_on_the_cpu() -> None:
    network = build_network(SMALL, channels=3, seed=1)
    assert network.training
    assert {weight.device.type for weight in network.parameters()} == {"cpu"}


def test_build_network__uses_imagenets_statistics_unless_told() -> None:
    rgb = build_network(SMALL, channels=3, seed=0)
    grey = build_network(SMALL, channels=1, seed=0)
    told = NetworkConfig(name="smallnet", image_size=32, mean=(0.1,), std=(0.3,))

    assert rgb.mean_C11.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert rgb.std_C11.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert grey.mean_C11.flatten().tolist() == pytest.approx([0.449])
    assert grey.std_C11.flatten().tolist() == pytest.approx([0.226])
    network = build_network(told, channels=1, seed=0)
    assert (network.mean_C11.item(), network.std_C11.item()) == pytest.approx((0.1, 0.3))


@pytest.mark.parametrize("key", ["mean", "std"])
def test_build_network__refuses_statistics_of_other_channels(key: str) -> None:
    config = NetworkConfig.model_validate(
        {"name": "smallnet", "image_size": 32, key: (0.5, 0.5, 0.5)}
    )
    with pytest.raises(ConfigError, match=f"network.{key}: has 3 values, .* 1 channels"):
        build_network(config, channels=1, seed=0)


@pytest.mark.parametrize(("name", "dim"), [("alexnet", 4096), ("vgg16", 4096), ("smallnet", 256)])
def test_feature_dim_of__knows_every_network(name: str, dim: int) -> None:
    assert name in NETWORKS
    assert feature_dim_of(NetworkConfig(name=name, image_size=64), channels=3) == dim


def test_feature_dim_of__refuses_images_that_are_too_small() -> None:
    with pytest.raises(ConfigError, match="alexnet: images of 32 px"):
        feature_dim_of(NetworkConfig(image_size=32), channels=3)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 64), ("resnet18-small", 32)])
def test_footprint_of__counts_what_one_image_leaves_in_a_real_pass(name: str, size: int) -> None:
    config = NetworkConfig(name=name, image_size=size, sobel=True)
    network = build_network(config, channels=3, seed=0).eval()
    sizes: list[int] = []
    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(lambda _, __, output: sizes.append(output.numel()))

    network.feature(torch.zeros(1, 3, size, size, dtype=torch.uint8))

    num_weights = sum(weight.numel() for weight in network.parameters())
    assert footprint_of(config, channels=3) == Footprint(num_weights, sum(sizes))


@pytest.mark.slow
def test_feature_dim_of__imports_no_compiler() -> None:
    code = f"""
import sys
from deepcluster_core.models.build import accepts_size, feature_dim_of, footprint_of
from deepcluster_core.models.config import NetworkConfig
for name in {OWN_NETWORKS}:
    config = NetworkConfig(name=name, image_size=64, sobel=True, projection={{}})
    feature_dim_of(config, channels=3, layer="projection")
    footprint_of(config, channels=3)
    accepts_size(config, channels=3, size=96)
assert not {{"sympy", "torch._dynamo"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_network_config__takes_the_lists_of_yaml() -> None:
    config = NetworkConfig.model_validate({"mean": [0.5], "std": [1]})
    assert (config.mean, config.std) == ((0.5,), (1.0,))


def test_network_config__importing_it_imports_no_torch() -> None:
    code = "import sys, deepcluster_core.models.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_network_config__lists_the_known_names() -> None:
    with pytest.raises(
        ValidationError, match="alexnet, vgg16, smallnet, resnet18-small, torchvision:NAME"
    ):
        NetworkConfig(name="resnet50")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "torchvision:"},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"std": [0.0]},
        {"std": [math.inf]},
        {"mean": ["0.5"]},
        {"dropuot": 0.5},
    ],
)
def test_network_config__refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NetworkConfig.model_validate(wrong)
