"""Suffixes: B images, F filters, H rows, W columns."""

import pytest
import torch

from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.filters.activation_maps import (
    chosen_filters,
    depth,
    layers_to_read,
    mean_activation,
    num_filters,
)
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network


@pytest.fixture(scope="module")
def smallnet() -> Network:
    config = NetworkConfig(name="smallnet", image_size=16)
    return build_network(config, channels=3, seed=0).eval()


@pytest.fixture(scope="module")
def resnet() -> Network:
    config = NetworkConfig(name="torchvision:resnet18", image_size=32, sobel=False)
    return build_network(config, channels=3, seed=0).eval()


def test_layers_to_read__all_that_have_a_short_name(smallnet: Network) -> None:
    assert layers_to_read(smallnet, None) == ["conv1", "conv2", "conv3", "conv4"]
    assert layers_to_read(smallnet, ("conv3",)) == ["conv3"]


def test_layers_to_read__must_be_named_where_none_has(resnet: Network) -> None:
    with pytest.raises(ConfigError, match=r"Fix: name some.*conv1, .*layer4"):
        layers_to_read(resnet, None)
    assert layers_to_read(resnet, ("backbone.layer4",)) == ["backbone.layer4"]


def test_num_filters__of_taps_and_modules(smallnet: Network, resnet: Network) -> None:
    assert num_filters(smallnet, "conv2", size=16) == 64
    assert num_filters(resnet, "backbone.layer2", size=32) == 128


def test_num_filters__refuses_what_is_no_map(smallnet: Network) -> None:
    with pytest.raises(ConfigError, match=r"'backbone.fc5' outputs numbers of shape \(256,\)"):
        num_filters(smallnet, "backbone.fc5", size=16)
    with pytest.raises(ConfigError, match="'conv9' is unknown"):
        num_filters(smallnet, "conv9", size=16)


def test_chosen_filters__evenly_or_as_listed() -> None:
    assert chosen_filters(4, of=10, layer="conv1") == [0, 3, 6, 9]
    assert chosen_filters(99, of=3, layer="conv1") == [0, 1, 2]
    assert chosen_filters(1, of=3, layer="conv1") == [0]
    assert chosen_filters((7, 2, 7), of=8, layer="conv1") == [2, 7]


def test_chosen_filters__refuses_numbers_beyond_the_layer() -> None:
    with pytest.raises(ConfigError, match=r"filters: 8 asked for, but layer conv1 has .* 0 to 7"):
        chosen_filters((2, 8), of=8, layer="conv1")


def test_depth__by_the_convolutions_before(smallnet: Network, resnet: Network) -> None:
    found = [depth(smallnet, layer) for layer in smallnet.taps]
    assert found == pytest.approx([0, 1 / 3, 2 / 3, 1])
    # ResNet-18: 1 convolution, four layers of 4, and 3 that shorten the way.
    found = [depth(resnet, f"backbone.{name}") for name in ("conv1", "relu", "layer1", "layer4")]
    assert found == pytest.approx([0, 0, 4 / 19, 1])


def test_mean_activation__after_the_relu_and_with_all_digits() -> None:
    map_BFHW = torch.tensor([[[[1.0, -3.0]], [[-1.0, -1.0]]]])
    assert mean_activation(map_BFHW).tolist() == [[0.5, 0.0]]
    # In bfloat16, which has 8 bits, the mean would be rounded to 1.
    many_BFHW = torch.ones(1, 1, 32, 32).index_fill(3, torch.tensor(0), 1.0625)
    assert mean_activation(many_BFHW.bfloat16()).item() == pytest.approx(1 + 0.0625 / 32)
