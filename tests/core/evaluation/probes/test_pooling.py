"""Suffixes: B images, C channels, H rows, W columns, D values, S side of a view."""

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.probes.pooling import Frozen, pooled
from deepcluster_core.models import alexnet, vgg
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Backbone, Network

# Kernel, stride and padding as in the table of the released code; what they leave.
ALEXNET = {
    "conv1": (6, 6, 3, 9600),
    "conv2": (4, 4, 0, 9216),
    "conv3": (3, 3, 1, 9600),
    "conv4": (3, 3, 1, 9600),
    "conv5": (2, 2, 0, 9216),
}


def network(name: str = "smallnet", *, image_size: int = 32) -> Network:
    config = NetworkConfig(name=name, image_size=image_size)
    built = build_network(config, channels=3, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if trained: folding must use its statistics
            module.running_mean = torch.randn(module.num_features, generator=generator)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
    return built


def frozen(built: Network, layers: list[str], *, size: int = 32) -> Frozen:
    return Frozen(built, layers, size=size, device="cpu", precision="float32")


def flat(map_BCHW: Tensor) -> Tensor:
    return map_BCHW.permute(0, 2, 3, 1).flatten(1)


def pictures(num: int, *, size: int = 32) -> NDArray[np.uint8]:
    shape = (num, size, size, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_frozen__pools_alexnet_as_the_released_code() -> None:
    built = network("alexnet", image_size=224).eval()
    views_BSSC = pictures(2, size=224)
    images_BCSS = torch.from_numpy(views_BSSC).permute(0, 3, 1, 2)
    with torch.no_grad():
        maps = {layer: built.layer_output(images_BCSS, layer) for layer in ALEXNET}

    of_layers = frozen(built, list(ALEXNET), size=224)
    values = of_layers(views_BSSC)

    for layer, (kernel, stride, padding, numbers) in ALEXNET.items():
        expected_BD = flat(nn.AvgPool2d(kernel, stride, padding)(maps[layer]))
        assert of_layers.numbers[layer] == values[layer].shape[1] == numbers
        # Batch normalisation is folded into the convolutions: rounded elsewhere, layer by layer.
        scale = expected_BD.abs().max().item()
        torch.testing.assert_close(values[layer], expected_BD, atol=1e-5 * scale, rtol=1e-4)


def test_pooled__counts_the_zeros_of_the_padding() -> None:
    ones_BCHW = torch.ones(1, 384, 13, 13)
    values_HWC = pooled(ones_BCHW, alexnet.WINDOWS["conv3"]).view(5, 5, 384)
    assert values_HWC[0, 0, 0].item() == pytest.approx(4 / 9)
    assert values_HWC[2, 2, 0] == 1


@pytest.mark.parametrize(
    ("layer", "channels", "side", "kernel", "numbers"),
    [
        ("conv2", 64, 224, 18, 9216),
        ("conv4", 128, 112, 14, 8192),
        ("conv7", 256, 56, 9, 9216),
        ("conv10", 512, 28, 6, 8192),
        ("conv13", 512, 14, 3, 8192),
    ],
)
def test_pooled__has_the_windows_of_vgg(
    layer: str, channels: int, side: int, kernel: int, numbers: int
) -> None:
    map_BCHW = torch.rand(1, channels, side, side)
    values_BD = pooled(map_BCHW, vgg.WINDOWS[layer])
    assert values_BD.shape == (1, numbers)
    torch.testing.assert_close(values_BD, flat(nn.AvgPool2d(kernel)(map_BCHW)))


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_windows__name_all_layers_of_their_networks(name: str) -> None:
    with torch.device("meta"):
        built = build_network(NetworkConfig(name=name), channels=3, seed=0)
    assert list(built.windows) == list(built.taps)


@pytest.mark.parametrize(
    ("channels", "side", "grid"),
    [
        (96, 55, 10),  # the rule gives AlexNet's sizes
        (256, 27, 6),
        (384, 13, 5),
        (32, 32, 17),
        (1024, 14, 3),  # layer3 of a ResNet-50
        (256, 4, 4),  # no finer than the map
        (20_000, 7, 1),
    ],
)
def test_pooled__leaves_about_9000_numbers_of_other_maps(
    channels: int, side: int, grid: int
) -> None:
    assert pooled(torch.zeros(1, channels, side, side), None).shape == (1, channels * grid**2)


def test_pooled__goes_by_the_rule_where_the_windows_do_not_fit() -> None:
    map_BCHW = torch.rand(1, 96, 30, 30)  # AlexNet's conv1 of smaller images
    values_BD = pooled(map_BCHW, alexnet.WINDOWS["conv1"])
    torch.testing.assert_close(values_BD, flat(nn.AvgPool2d(3)(map_BCHW)))


def test_pooled__averages_tokens_and_takes_vectors_as_they_are() -> None:
    tokens_BTC = torch.rand(2, 7, 5)
    torch.testing.assert_close(pooled(tokens_BTC, None), tokens_BTC.mean(1))
    values_BD = torch.rand(2, 5)
    assert torch.equal(pooled(values_BD, None), values_BD)


def test_frozen__values_are_not_overwritten_by_the_layers_behind() -> None:
    built = network()
    alone = frozen(copy.deepcopy(built), ["backbone.fc5"])(pictures(4))["backbone.fc5"]

    together = frozen(built, ["conv1", "backbone.fc5", "last_relu"])(pictures(4))

    assert (alone < 0).any(), "the ReLU behind it works in place"
    assert torch.equal(together["backbone.fc5"], alone)


def test_frozen__leaves_the_statistics_of_batch_normalisation_alone() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())  # cannot be folded
    backbone = Backbone(body, feature_dim=4 * 30 * 30, relu_missing=False)
    built = Network(backbone, mean=(0,) * 3, std=(1,) * 3, sobel=False)
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}

    frozen(built.train(), ["backbone.1"])(pictures(8))

    after = built.state_dict()
    assert "backbone.1.running_mean" in after
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor)


def test_frozen__values_of_an_image_do_not_depend_on_the_others() -> None:
    of_layers = frozen(network(), ["conv4"])  # batch normalisation by its statistics, no dropout
    views_BSSC = pictures(4)
    values_BD = of_layers(views_BSSC)["conv4"]
    torch.testing.assert_close(of_layers(views_BSSC[1:2])["conv4"], values_BD[1:2])


def test_frozen__names_a_layer_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="'conv9' is unknown"):
        frozen(network(), ["conv9"])


def test_frozen__keeps_the_number_format_of_the_pass() -> None:
    built = network()
    wide_BD = frozen(copy.deepcopy(built), ["conv4"])(pictures(4))["conv4"]

    narrow = Frozen(built, ["conv4"], size=32, device="cpu", precision="bfloat16")
    narrow_BD = narrow(pictures(4))["conv4"]

    assert (wide_BD.dtype, narrow_BD.dtype) == (torch.float32, torch.bfloat16)
    # bfloat16 has 8 bits, and four layers round one after the other
    scale = wide_BD.abs().max().item()
    torch.testing.assert_close(narrow_BD.float(), wide_BD, atol=0.05 * scale, rtol=0)
