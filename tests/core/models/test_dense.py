"""A network taken apart does what the whole does. Suffixes: N images, C channels, S side."""

import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.dense import Dense, Place
from deepcluster_core.models.network import Network


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
    ("name", "size", "window"), [("alexnet", 224, 6), ("vgg16", 64, 2), ("smallnet", 32, 2)]
)
@torch.no_grad()
def test_dense__halves_make_the_whole(name: str, size: int, window: int) -> None:
    built = network(name, size)
    dense, images_NCSS = Dense(built), images(2, size)

    map_NCSS = dense.map(images_NCSS, pooled=True)

    assert map_NCSS.shape == (2, dense.channels, window, window)
    assert dense.window == window
    torch.testing.assert_close(dense.hidden(map_NCSS), built(images_NCSS))


@torch.no_grad()
def test_map__that_is_not_pooled_is_the_tap_of_the_last_convolution() -> None:
    built = network("smallnet", 32)
    images_NCHW = images(1, 40, 56)
    map_NCHW = Dense(built).map(images_NCHW, pooled=False)
    assert map_NCHW.shape[2:] == (5, 7)
    torch.testing.assert_close(map_NCHW, built.layer_output(images_NCHW, "conv4"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", Place(16, 15)),
        pytest.param("vgg16", Place(16, 7.5), marks=pytest.mark.slow),
        ("smallnet", Place(8, 3.5)),
    ],
)
def test_place__is_the_centre_of_what_a_pixel_depends_on(name: str, expected: Place) -> None:
    built = build_network(NetworkConfig(name=name, image_size=64), channels=3, seed=1).eval()
    place = Dense(built).place(pooled=False)
    assert place == expected
    *layers, _ = (
        layer
        for layer in built.backbone.get_submodule("maps").modules()
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d)
    )
    # The same windows, but every pixel in one counts.
    linear = [
        nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
        if isinstance(layer, nn.MaxPool2d)
        else layer
        for layer in layers
    ]
    image = torch.zeros(1, 2, 448, 448, requires_grad=True)  # Sobel's channels
    pixel = 13  # far from the edges
    nn.Sequential(*linear)(image)[0, 0, pixel, pixel].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(dim=(0, 1)).nonzero()
    assert (seen[0] + seen[-1]).item() / 2 == place.first + pixel * place.stride


def test_dense__refuses_networks_of_other_parts() -> None:
    built = build_network(NetworkConfig(name="torchvision:resnet18"), channels=3, seed=0)
    with pytest.raises(ConfigError, match="own networks: alexnet, vgg16, smallnet"):
        Dense(built)
