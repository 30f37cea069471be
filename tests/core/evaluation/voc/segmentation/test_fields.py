"""Scores lie where their fields have their centres. Suffixes: P pixels, N scores, C channels."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.voc.segmentation.fields import Axis, Fields, fields_of
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.dense import Dense
from deepcluster_core.models.network import Network

ALEXNET, VGG16 = Fields(stride=32, center=111.0), Fields(stride=32, center=111.5)


def network(name: str, size: int) -> Network:
    config = NetworkConfig(name=name, image_size=size, sobel=False)
    return build_network(config, channels=3, seed=1).eval()


def averaging(built: Network) -> Network:
    """Return a network whose windows weigh their pixels alike to both sides of the middle."""
    for block in built.backbone.get_submodule("maps").children():
        for name, layer in block.named_children():
            if isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            elif isinstance(layer, nn.MaxPool2d):
                block.add_module(name, nn.AvgPool2d(layer.kernel_size, layer.stride))
    return built


@pytest.mark.parametrize(
    ("name", "size", "fields"),
    [
        ("alexnet", 224, ALEXNET),
        ("alexnet", 96, Fields(32, 31 + 16)),
        pytest.param("vgg16", 64, Fields(32, 15.5 + 16), marks=pytest.mark.slow),
        ("smallnet", 32, Fields(16, 15.5)),
    ],
)
def test_fields_of__is_the_middle_of_the_pixels_that_a_score_is_made_of(
    name: str, size: int, fields: Fields
) -> None:
    built = network(name, size)
    assert fields_of(built) == fields

    dense = Dense(averaging(built))
    row, column = 3, 4  # far from the border, which would cut fields
    picture_1CHW = torch.ones(1, 3, 11 * fields.stride + 64, 12 * fields.stride + 64)
    map_1Chw = dense.map(picture_1CHW.requires_grad_(), pooled=True)
    map_1Chw[..., row : row + dense.window, column : column + dense.window].sum().backward()

    assert picture_1CHW.grad is not None
    weight_HW = picture_1CHW.grad.double().sum(dim=(0, 1))
    for number, weight_P in ((row, weight_HW.sum(dim=1)), (column, weight_HW.sum(dim=0))):
        middle = (weight_P @ torch.arange(len(weight_P)).double()) / weight_P.sum()
        assert float(middle) == pytest.approx(fields.center + number * fields.stride, abs=1e-3)


def test_fields_of__vgg16_as_published() -> None:
    with torch.device("meta"):  # its fc6 alone takes 0.4 GB
        built = build_network(NetworkConfig(name="vgg16"), channels=3, seed=1)
    assert fields_of(built) == VGG16


def test_fields_of__refuses_networks_of_other_parts() -> None:
    built = build_network(NetworkConfig(name="torchvision:resnet18"), channels=3, seed=0)
    with pytest.raises(ConfigError, match="own networks: alexnet, vgg16, smallnet"):
        fields_of(built)


@pytest.mark.parametrize(
    ("fields", "own_padding", "kernel", "crop"),
    [(ALEXNET, 2, 63, 18), (VGG16, 1, 64, 19)],
    ids=["FCN-AlexNet", "FCN-32s"],
)
@pytest.mark.parity
def test_interpolation__is_the_released_deconvolution_and_its_crop(
    fields: Fields, own_padding: int, kernel: int, crop: int
) -> None:
    # The released networks pad their first convolution by 100 instead of 2 or 1.
    axis = fields.axis(500, padding=100 - own_padding)
    score_N = torch.randn(axis.scores, generator=torch.Generator().manual_seed(0))
    middle = (kernel - 1) / 2
    bilinear_K = 1 - (torch.arange(kernel) - middle).abs() / 32

    spread = functional.conv_transpose1d(score_N[None], bilinear_K[None, None], stride=32)
    theirs_P = functional.pad(spread[0], (0, 64))[crop : crop + 500]

    ours_P = axis.interpolation() @ score_N
    last = axis.first + 32 * (axis.scores - 1)
    inside = torch.arange(13, int(last) + 1)  # beyond, the released scores fade to 0
    torch.testing.assert_close(ours_P[inside], theirs_P[inside], atol=1e-4, rtol=0)
    assert len(inside) >= 480


@pytest.mark.parametrize("pixels", [1, 33, 333, 375, 500])
@pytest.mark.parametrize("padding", [0, 14, 100])
@pytest.mark.parametrize("fields", [ALEXNET, VGG16, Fields(16, 15.5)], ids=str)
def test_axis__scores_lie_as_near_to_both_ends(fields: Fields, padding: int, pixels: int) -> None:
    axis = fields.axis(pixels, padding=padding)
    assert axis.first == fields.center - padding
    last = axis.first + axis.stride * (axis.scores - 1)
    assert pixels - 1 - last <= max(axis.first, pixels - 1 - axis.first)
    assert axis.scores == 1 or last - axis.stride < pixels - 1 - axis.first, "not one too many"
    assert padding == axis.before <= axis.after < padding + 2 * fields.center + 2


@pytest.mark.parametrize("name", ["alexnet", "smallnet"])
@torch.no_grad()
def test_axis__padding_makes_exactly_its_scores(name: str) -> None:
    built = network(name, 96)
    dense, fields = Dense(built), fields_of(built)
    for pixels in (60, 61, 97, 128, 150):
        axis = fields.axis(pixels, padding=30)
        wide = axis.before + axis.pixels + axis.after
        for side, scores in ((wide, axis.scores), (wide - 1, axis.scores - 1)):
            map_1Chw = dense.map(torch.zeros(1, 3, side, fields.stride * 5), pooled=True)
            assert map_1Chw.shape[2] - dense.window + 1 == scores, "no pixel more than it takes"


def test_interpolation__is_linear_between_scores_and_constant_beyond() -> None:
    axis = Axis(pixels=50, scores=3, stride=16, first=7.5, before=0, after=0)
    weight_PN = axis.interpolation()

    places_N: Tensor = axis.first + axis.stride * torch.arange(3.0)
    expected_P = torch.arange(50.0).clamp(7.5, 39.5)
    torch.testing.assert_close(weight_PN @ places_N, expected_P)
    torch.testing.assert_close(weight_PN.sum(dim=1), torch.ones(50))
    assert (weight_PN >= 0).all()
