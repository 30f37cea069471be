"""The networks of the paper and the small one: layers, sizes, weights."""

import copy
import itertools
import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.alexnet import build_alexnet
from deepcluster_core.models.layers import fold_batch_norm
from deepcluster_core.models.network import Backbone, Network
from deepcluster_core.models.registry import Builder
from deepcluster_core.models.smallnet import build_smallnet
from deepcluster_core.models.vgg import build_vgg16
from deepcluster_core.seeding import torch_seeded


def conv_bn(inputs: int, outputs: int, kernel: int) -> int:
    """Weights and biases of the convolution; weight and bias of its batch normalisation."""
    return inputs * outputs * kernel**2 + outputs + 2 * outputs


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def as_network(backbone: Backbone, *, channels: int) -> Network:
    """Without the input's statistics, so that a float image reaches the backbone as it is."""
    return Network(backbone, mean=(0.0,) * channels, std=(1.0,) * channels, sobel=False).eval()


@pytest.mark.parametrize("in_channels", [2, 3])
def test_build_alexnet__has_the_parameters_of_its_layer_table(in_channels: int) -> None:
    with torch.device("meta"):
        backbone = build_alexnet(in_channels=in_channels, image_size=224, dropout=0.5)

    expected = (
        conv_bn(in_channels, 96, 11)
        + conv_bn(96, 256, 5)
        + conv_bn(256, 384, 3)
        + conv_bn(384, 384, 3)
        + conv_bn(384, 256, 3)
        # 224 -> conv1 55 -> pool 27 -> conv2 27 -> pool 13 -> conv3 to 5 13 -> pool 6
        + linear(256 * 6 * 6, 4096)
        + linear(4096, 4096)
    )
    assert num_parameters(backbone.body) == expected


def test_build_alexnet__has_the_maps_of_the_paper_at_224_px() -> None:
    with torch.device("meta"):
        backbone = build_alexnet(in_channels=3, image_size=224, dropout=0.5)
        network = as_network(backbone, channels=3)
        images_NCHW = torch.empty(2, 3, 224, 224)
        shapes = {tap: network.layer_output(images_NCHW, tap).shape[1:] for tap in network.taps}
        feature_ND = network.feature(images_NCHW)

    # Table 1 of the paper pools these to about 9600 values.
    assert shapes == {
        "conv1": (96, 55, 55),
        "conv2": (256, 27, 27),
        "conv3": (384, 13, 13),
        "conv4": (384, 13, 13),
        "conv5": (256, 13, 13),
    }
    assert feature_ND.shape == (2, 4096)


def test_build_vgg16__has_the_parameters_of_its_layer_table() -> None:
    with torch.device("meta"):
        backbone = build_vgg16(in_channels=3, image_size=224, dropout=0.5)

    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    expected = sum(conv_bn(a, b, 3) for a, b in itertools.pairwise(widths))
    # five poolings by 2: 224 -> 7
    expected += linear(512 * 7 * 7, 4096) + linear(4096, 4096)
    assert num_parameters(backbone.body) == expected
    # torchvision's `vgg16_bn` has 138,365,992, of which the 1000 classes take 4096 * 1000 + 1000.
    assert expected == 138_365_992 - linear(4096, 1000)


def test_build_vgg16__taps_all_thirteen_convolutions_before_their_pool() -> None:
    with torch.device("meta"):
        backbone = build_vgg16(in_channels=3, image_size=64, dropout=0.5)
        network = as_network(backbone, channels=3)
        images_NCHW = torch.empty(1, 3, 64, 64)
        sides = [network.layer_output(images_NCHW, tap).shape[-1] for tap in network.taps]

    assert list(network.taps) == [f"conv{number}" for number in range(1, 14)]
    assert sides == [64, 64, 32, 32, 16, 16, 16, 8, 8, 8, 4, 4, 4]


@pytest.mark.parity
def test_build_vgg16__computes_the_maps_that_torchvision_computes() -> None:
    from torchvision.models import vgg  # noqa: PLC0415 (slow import, only here)

    with torch_seeded(0):
        ours = build_vgg16(in_channels=3, image_size=32, dropout=0.5).body.get_submodule("maps")
        theirs = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
        images_NCHW = torch.randn(2, 3, 32, 32)
    names = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(names))

    assert torch.equal(ours.eval()(images_NCHW), theirs.eval()(images_NCHW))


@pytest.mark.parametrize("image_size", [16, 28, 32, 64])
def test_build_smallnet__takes_images_of(image_size: int) -> None:
    backbone = build_smallnet(in_channels=1, image_size=image_size, dropout=0.5)
    network = as_network(backbone, channels=1)
    images_NCHW = torch.rand(2, 1, image_size, image_size)

    assert network.feature(images_NCHW).shape == (2, 256)
    assert network.layer_output(images_NCHW, "conv4").shape[1:] == (256, *2 * (image_size // 8,))


@pytest.mark.parametrize(
    ("build", "smallest"), [(build_alexnet, 63), (build_vgg16, 32), (build_smallnet, 16)]
)
def test_build__says_how_large_images_must_be(build: Builder, smallest: int) -> None:
    with torch.device("meta"):
        build(in_channels=2, image_size=smallest, dropout=0.5)
        with pytest.raises(ConfigError, match=f"{smallest - 1} px .*\n.*at least {smallest} px"):
            build(in_channels=2, image_size=smallest - 1, dropout=0.5)


@pytest.mark.parametrize(
    ("build", "num_dropouts"), [(build_alexnet, 2), (build_vgg16, 1), (build_smallnet, 2)]
)
def test_build__has_dropout(build: Builder, num_dropouts: int) -> None:
    with torch.device("meta"):
        body = build(in_channels=2, image_size=64, dropout=0.25).body
    rates = [module.p for module in body.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.25] * num_dropouts


def test_initialise__follows_the_released_code() -> None:
    with torch_seeded(0):
        body = build_alexnet(in_channels=2, image_size=63, dropout=0.5).body
    weights = dict(body.named_parameters())

    # He-normal by fan-out: 384 outputs, 3x3. A standard deviation of 10^6 draws is good to 1 %.
    assert weights["maps.conv3.conv.weight"].std().item() == pytest.approx(
        math.sqrt(2 / (384 * 9)), rel=0.01
    )
    assert weights["fc7.weight"].std().item() == pytest.approx(0.01, rel=0.01)
    assert all(w.eq(0).all() for name, w in weights.items() if name.endswith("bias"))
    assert all(w.eq(1).all() for name, w in weights.items() if name.endswith("bn.weight"))


def test_build_smallnet__starts_its_linear_layers_he_normal() -> None:
    with torch_seeded(0):
        body = build_smallnet(in_channels=2, image_size=32, dropout=0.5).body
    # 256 inputs; 65,536 draws, so 1 % is more than three standard errors
    found = dict(body.named_parameters())["fc6.weight"].std().item()
    assert found == pytest.approx(math.sqrt(2 / 256), rel=0.01)


@pytest.mark.parametrize("build", [build_alexnet, build_vgg16, build_smallnet])
def test_conv_block__pools_before_its_relu_to_the_same_values_and_gradients(build: Builder) -> None:
    with torch_seeded(0):
        maps = build(in_channels=2, image_size=64, dropout=0.5).body.get_submodule("maps")
        images_NCHW = torch.randn(3, 2, 64, 64)
    relu_first = copy.deepcopy(maps)
    for block in relu_first.children():
        layers = dict(block.named_children())
        if pool := layers.pop("pool", None):
            layers["pool"] = pool
            relu_first.set_submodule(block_name(relu_first, block), in_order(layers))

    ours, theirs = maps(images_NCHW), relu_first(images_NCHW)
    ours.square().sum().backward()
    theirs.square().sum().backward()

    assert torch.equal(ours, theirs)
    for name, weight in maps.named_parameters():
        assert torch.equal(not_none(weight.grad), not_none(relu_first.get_parameter(name).grad))


def block_name(parent: nn.Module, child: nn.Module) -> str:
    return next(name for name, module in parent.named_children() if module is child)


def in_order(layers: dict[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def not_none(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def test_fold_batch_norm__leaves_the_function_as_it_was() -> None:
    network = as_network(build_smallnet(in_channels=2, image_size=32, dropout=0.5), channels=2)
    with torch_seeded(1):
        network.train()(torch.rand(64, 2, 32, 32))  # running statistics of their own
        images_NCHW = torch.rand(4, 2, 32, 32)
    feature_ND = network.eval().feature(images_NCHW)
    conv2_NCHW = network.layer_output(images_NCHW, "conv2")

    fold_batch_norm(network)

    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    # Rounded in other places: 1e-5 of the largest value.
    for found, expected in (
        (network.feature(images_NCHW), feature_ND),
        (network.layer_output(images_NCHW, "conv2"), conv2_NCHW),
    ):
        atol = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=atol)
