"""Suffixes: F filters, C channels, H rows, W columns, N images."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.filters.first_layer import (
    Weights,
    cosines,
    draw_filters,
    first_filters,
    high_frequency,
    norms,
    through_sobel,
)
from deepcluster_core.evaluation.mosaic import CAPTION_PX, INK, PAPER
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Backbone, Network
from deepcluster_core.models.sobel import Sobel


def random_filters(filters: int, channels: int, side: int) -> Weights:
    shape = (filters, channels, side, side)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "channels", "sobel", "shape"),
    [
        ("alexnet", 3, True, (96, 2, 11, 11)),
        ("vgg16", 3, False, (64, 3, 3, 3)),
        ("smallnet", 1, False, (32, 1, 3, 3)),
        ("smallnet", 5, False, (32, 5, 3, 3)),
        ("torchvision:resnet18", 3, True, (64, 2, 7, 7)),
        ("torchvision:vit_b_32", 3, False, (768, 3, 32, 32)),
    ],
)
def test_first_filters__of_any_network(
    name: str, channels: int, sobel: bool, shape: tuple[int, ...]
) -> None:
    config = NetworkConfig(name=name, image_size=64, sobel=sobel)
    with torch.device("meta"):
        shapes_only = build_network(config, channels=channels, seed=0)
    shapes_only = shapes_only.to_empty(device="cpu")

    assert first_filters(shapes_only).shape == shape


def test_first_filters__are_a_copy_of_the_weights() -> None:
    network = build_network(NetworkConfig(name="smallnet", image_size=16), channels=1, seed=0)
    conv = network.get_submodule("backbone.maps.conv1.conv")
    assert isinstance(conv, nn.Conv2d)

    found_FCHW = first_filters(network)

    np.testing.assert_array_equal(found_FCHW, conv.weight.detach().numpy())
    found_FCHW[:] = 0
    assert conv.weight.any(), "the network is left as it is"


def test_first_filters__refuses_a_network_without_convolutions() -> None:
    backbone = Backbone(nn.Linear(4, 4), feature_dim=4, relu_missing=False)
    with pytest.raises(ConfigError, match="no convolution"):
        first_filters(Network(backbone, mean=(0.5,), std=(0.5,), sobel=False))


def test_through_sobel__does_what_both_filters_do() -> None:
    weight_FCHW = random_filters(4, 2, 5)
    image_NCHW = torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(0))

    both_NFHW = nn.functional.conv2d(Sobel((0.3,), (0.7,))(image_NCHW), torch.tensor(weight_FCHW))
    at_once = torch.tensor(through_sobel(weight_FCHW))
    one_NFHW = nn.functional.conv2d((image_NCHW - 0.3) / 0.7, at_once, padding=1)

    # All but the border, where Sobel sees zeros. Float32 sums of some 50 numbers of about 1.
    torch.testing.assert_close(
        one_NFHW[..., 1:-1, 1:-1], both_NFHW[..., 1:-1, 1:-1], atol=1e-4, rtol=1e-4
    )


def test_high_frequency__of_a_wave_and_of_noise() -> None:
    place = np.arange(32)
    slow, fast = (np.cos(2 * np.pi * place * cycles) for cycles in (0.125, 0.375))
    window = np.hanning(32)[:, None] * np.hanning(32)  # keeps a wave's energy in one place
    waves_FCHW = np.stack([slow * window, (slow * window).T, fast * window])[:, None]

    assert high_frequency(waves_FCHW.astype(np.float32)) == pytest.approx([0, 0, 1], abs=1e-3)
    # Outside a circle of a quarter of a cycle. 500 filters of 49 numbers: 0.6 % of spread.
    noise_FCHW = random_filters(500, 1, 7)
    assert high_frequency(noise_FCHW).mean() == pytest.approx(1 - math.pi / 16, abs=0.02)
    assert high_frequency(np.zeros((2, 3, 5, 5), np.float32)).tolist() == [0, 0]


def test_norms_and_cosines__by_hand() -> None:
    weight_FCHW = np.zeros((3, 1, 2, 2), np.float32)
    weight_FCHW[0, 0] = [[3, 0], [0, 4]]
    weight_FCHW[1, 0] = [[1, 1], [1, 1]]
    other_FCHW = np.ones_like(weight_FCHW)

    assert norms(weight_FCHW).tolist() == [5, 2, 0]
    assert cosines(weight_FCHW, other_FCHW).tolist() == [0.7, 1, 0]
    assert cosines(weight_FCHW, -other_FCHW).tolist() == [-0.7, -1, 0]


def test_draw_filters__zero_is_grey_and_each_filter_has_its_own_scale() -> None:
    weight_FCHW = np.zeros((2, 3, 4, 4), np.float32)
    weight_FCHW[0, 0, 0, 0], weight_FCHW[1, 2, 3, 3] = 0.5, -2

    each_HWC = draw_filters(weight_FCHW, sobel=False, scale="each")
    all_HWC = draw_filters(weight_FCHW, sobel=False, scale="all")

    # Tiles of 4 px, eightfold, in a frame of 1 px below a caption.
    tile_HWC = each_HWC[CAPTION_PX + 1 : CAPTION_PX + 33, 1:33]
    assert tile_HWC[0, 0].tolist() == tile_HWC[7, 7].tolist() == [255, 128, 128], "red"
    assert tile_HWC[0, 8].tolist() == [128, 128, 128]
    weak_HWC = all_HWC[CAPTION_PX + 1 : CAPTION_PX + 33, 1:33]
    assert weak_HWC[0, 0].tolist() == [159, 128, 128], "a quarter of the other filter's"
    last_HWC = all_HWC[-33:-1, -33:-1]
    assert last_HWC[-1, -1].tolist() == [128, 128, 0], "the least is black"


@pytest.mark.parametrize(
    ("channels", "sobel", "tiles"), [(3, False, 1), (1, False, 1), (6, False, 6), (2, True, 3)]
)
def test_draw_filters__tiles_of_a_filter(channels: int, sobel: bool, tiles: int) -> None:
    weight_FCHW = random_filters(12, channels, 3)

    picture_HWC = draw_filters(weight_FCHW, sobel=sobel, scale="each")

    # The frames' upper edges: rows of ink as long as a tile of 3 or 5 px, elevenfold, and 2 more.
    is_ink_HW = (picture_HWC == INK).all(axis=2)
    edges = [len(run) for row in is_ink_HW for run in "".join(map(str, row.astype(int))).split("0")]
    assert edges.count(35) + edges.count(57) == 2 * 12 * tiles
    assert edges.count(57) == (24 if sobel else 0)
    assert (picture_HWC == PAPER).any()
