"""Suffixes: N images, C channels, H rows, W columns, D values of a feature."""

import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Backbone, Network


def images(num: int = 4, *, channels: int = 3, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (num, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def smallnet(*, channels: int = 3, sobel: bool = True, dropout: float = 0.5) -> Network:
    config = NetworkConfig(name="smallnet", image_size=32, sobel=sobel, dropout=dropout)
    return build_network(config, channels=channels, seed=0)


def test_network__normalises_each_channel() -> None:
    backbone = Backbone(nn.Identity(), feature_dim=1, relu_missing=False)
    network = Network(backbone, mean=(0.5, 0.2), std=(0.25, 0.1), sobel=False)
    images_NCHW = torch.tensor([255, 51], dtype=torch.uint8).reshape(1, 2, 1, 1)

    # (1 - 0.5) / 0.25 and (51/255 - 0.2) / 0.1
    torch.testing.assert_close(network(images_NCHW).flatten(), torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_network__takes_floats_of_0_to_1_as_well_as_bytes(dtype: torch.dtype) -> None:
    network = smallnet().eval()
    floats_NCHW = images().to(dtype) / 255
    expected_ND = network.feature(images())
    atol = 1e-5 * expected_ND.abs().max().item()
    torch.testing.assert_close(network.feature(floats_NCHW), expected_ND, rtol=1e-4, atol=atol)


def test_network__refuses_images_it_would_misread() -> None:
    network = smallnet()
    with pytest.raises(ValueError, match=r"\(4, 2, 32, 32\), expected \(N, 3, H, W\)"):
        network(images(channels=2))
    with pytest.raises(ValueError, match=r"\(4, 1, 32, 32\), expected \(N, 3, H, W\)"):
        smallnet(sobel=False)(images(channels=1))
    with pytest.raises(TypeError, match="int64"):
        network(images().long())


def test_feature__is_before_the_relu_and_forward_after_it() -> None:
    network = smallnet().eval()
    feature_ND, hidden_ND = network.feature(images()), network(images())

    assert feature_ND.shape == (4, network.feature_dim)
    assert (feature_ND < 0).any()
    assert torch.equal(hidden_ND, feature_ND.clamp(min=0))


def test_forward__drops_out_in_training_alone() -> None:
    network = smallnet()
    assert not torch.equal(network(images()), network(images()))
    network.eval()
    assert torch.equal(network(images()), network(images()))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_network__reads_any_number_of_channels(channels: int) -> None:
    for sobel, expected in ((True, 2), (False, channels)):
        network = smallnet(channels=channels, sobel=sobel)
        conv = network.get_submodule("backbone.maps.conv1.conv")
        assert isinstance(conv, nn.Conv2d)
        assert conv.in_channels == expected
        assert network(images(channels=channels)).shape == (4, 256)


def test_network__saves_only_what_it_learns() -> None:
    assert {name.split(".")[0] for name in smallnet().state_dict()} == {"backbone"}


def test_network__works_in_channels_last_memory_and_under_autocast() -> None:
    network = smallnet().eval()
    expected_ND = network.feature(images())
    network = network.to(memory_format=torch.channels_last)
    images_NCHW = images().to(memory_format=torch.channels_last)

    # another order of summation in float32
    torch.testing.assert_close(network.feature(images_NCHW), expected_ND, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        feature_ND = network.feature(images_NCHW)
    assert feature_ND.dtype == torch.bfloat16
    # bfloat16 has 8 bits, and six layers round one after the other
    scale = expected_ND.abs().max().item()
    torch.testing.assert_close(feature_ND.float(), expected_ND, atol=0.05 * scale, rtol=0)


def test_network__gives_every_weight_a_gradient() -> None:
    network = smallnet(dropout=0.0)
    network(images()).square().sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not without


def test_layer_feature__averages_maps_over_space() -> None:
    network = smallnet().eval()
    maps_NCHW = network.layer_output(images(), "conv2")
    feature_ND = network.layer_feature(images(), "conv2")

    assert maps_NCHW.shape == (4, 64, 16, 16)
    assert maps_NCHW.min() >= 0
    torch.testing.assert_close(feature_ND, maps_NCHW.flatten(2).mean(2))


def test_layer_feature__takes_the_names_of_modules() -> None:
    network = smallnet().eval()
    feature_ND = network.feature(images())

    assert torch.equal(network.layer_feature(images(), "backbone.fc6"), feature_ND)
    assert torch.equal(network.layer_feature(images(), "last_relu"), network(images()))
    by_tap = network.layer_feature(images(), "conv3")
    # The module of a tap stops before its ReLU, which the tap has.
    before_relu_NCHW = network.layer_output(images(), network.taps["conv3"])
    assert torch.equal(before_relu_NCHW.relu().mean(dim=(2, 3)), by_tap)


def test_layer_output__is_not_overwritten_by_the_relu_behind_it() -> None:
    network = smallnet().eval()
    assert (network.layer_output(images(), "backbone.maps.conv1.bn") < 0).any()


def test_layer_output__has_maps_of_images_that_the_linear_layers_cannot_take() -> None:
    network = smallnet().eval()
    assert network.layer_output(images(1, size=96), "conv4").shape == (1, 256, 12, 12)


def test_layer_output__knows_the_backbones_own_names() -> None:
    network = smallnet().eval()

    short = network.layer_output(images(), "maps.conv2")

    assert torch.equal(short, network.layer_output(images(), "backbone.maps.conv2"))


def test_layer_output__leaves_no_hook_behind() -> None:
    network = smallnet().eval()
    network.layer_output(images(), "conv1")
    assert network(images()).shape == (4, 256)


def test_layer_feature__lists_a_bounded_number_of_layers_when_it_does_not_know_one() -> None:
    with pytest.raises(ConfigError, match="layer 'conv9' is unknown") as raised:
        smallnet().layer_feature(images(), "conv9")
    message = str(raised.value)
    assert "conv1, " in message
    assert message.count(",") <= 20
    assert "more" in message


def test_layer_feature__refuses_a_module_that_does_not_run() -> None:
    network = smallnet()
    network.add_module("spare", nn.Identity())
    with pytest.raises(ConfigError, match="'spare' takes no part"):
        network.layer_feature(images(), "spare")


def test_layer_feature__averages_the_tokens_of_a_transformer() -> None:
    body = nn.Sequential(nn.Flatten(2), nn.Flatten())  # (N, C, H, W) -> (N, C, H * W) -> (N, D)
    network = Network(
        Backbone(body, feature_dim=12, relu_missing=False), mean=(0,), std=(1,), sobel=False
    )
    feature_ND = network.layer_feature(torch.ones(2, 1, 3, 4), "backbone.0")
    assert feature_ND.shape == (2, 12)


def test_read_layers__reads_all_in_one_pass() -> None:
    network = smallnet().eval()
    layers = ("backbone.fc6", "conv1", "backbone.maps.conv1.bn", "conv3")
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    alone = {layer: network.layer_output(images(), layer) for layer in layers}
    network.register_forward_pre_hook(count)
    together = network.read_layers(images(), dict.fromkeys(layers, torch.clone))

    assert passes == 1
    assert list(together) == list(layers), "in the order that was asked for"
    for layer, output in alone.items():
        assert torch.equal(together[layer], output)


def test_read_layers__ends_with_the_last_and_leaves_no_hook_behind() -> None:
    network = smallnet().eval()
    # Images that the linear layers cannot take, so that the pass has to end before them.
    maps = network.read_layers(images(1, size=96), {"conv4": torch.clone, "conv2": torch.clone})

    assert maps["conv4"].shape == (1, 256, 12, 12)
    assert network(images()).shape == (4, 256)


def test_read_layers__names_the_one_that_does_not_run() -> None:
    network = smallnet()
    network.add_module("spare", nn.Identity())
    with pytest.raises(ConfigError, match="'spare' takes no part"):
        network.read_layers(images(), dict.fromkeys(("conv1", "spare"), torch.clone))
