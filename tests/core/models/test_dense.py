"""A network taken apart does what the whole does. Suffixes: N images, C channels, S side."""

import pytest
import torch
from torch import Tensor

from deepcluster_core.errors import ConfigError
from deepcluster_core.models import Network, NetworkConfig, build_network
from deepcluster_core.models.dense import Dense


def network(name: str, size: int, *, sobel: bool = True) -> Network:
    """Return a network whose batch normalisation has seen images."""
    config = NetworkConfig(name=name, image_size=size, sobel=sobel)
    built = build_network(config, channels=3, seed=1)
    with torch.no_grad():
        built.train()(images(4, size))
    return built.eval()


def images(count: int, height: int, width: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, height, width or height)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("name", "size", "window", "stride"),
    [("alexnet", 224, 6, 16), ("vgg16", 64, 2, 16), ("smallnet", 32, 2, 8)],
)
@torch.no_grad()
def test_dense__halves_make_the_whole(name: str, size: int, window: int, stride: int) -> None:
    built = network(name, size)
    dense, images_NCSS = Dense(built), images(2, size)

    map_NCSS = dense.map(images_NCSS, pooled=True)

    assert map_NCSS.shape == (2, dense.channels, window, window)
    assert (dense.window, dense.stride, dense.pooled_stride) == (window, stride, 2 * stride)
    torch.testing.assert_close(dense.hidden(map_NCSS), built(images_NCSS))


@torch.no_grad()
def test_map__that_is_not_pooled_is_the_tap_of_the_last_convolution() -> None:
    built = network("smallnet", 32)
    images_NCHW = images(1, 40, 56)
    map_NCHW = Dense(built).map(images_NCHW, pooled=False)
    assert map_NCHW.shape[2:] == (5, 7)
    torch.testing.assert_close(map_NCHW, built.layer_output(images_NCHW, "conv4"))


@torch.no_grad()
def test_hidden_map__is_hidden_of_each_window() -> None:
    dense = Dense(network("smallnet", 32))
    map_NCHW = dense.map(images(2, 80, 112), pooled=True)

    hidden_NDHW = dense.hidden_map(map_NCHW, padding=0)

    assert hidden_NDHW.shape[2:] == (4, 6)
    for row, column in [(0, 0), (2, 5), (3, 1)]:
        window_NCSS = map_NCHW[:, :, row : row + 2, column : column + 2]
        expected_ND = dense.hidden(window_NCSS)
        torch.testing.assert_close(hidden_NDHW[:, :, row, column], expected_ND)
    assert dense.hidden_map(map_NCHW, padding=1).shape[2:] == (6, 8)


def test_dense__refuses_networks_of_other_parts() -> None:
    built = build_network(NetworkConfig(name="torchvision:resnet18"), channels=3, seed=0)
    with pytest.raises(ConfigError, match=r"alexnet, vgg16 or smallnet"):
        Dense(built)
