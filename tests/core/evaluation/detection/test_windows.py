"""Windows of a map: where its pixels look, and what of it lies in a box."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.evaluation.detection.windows import Place, place_of, pooled_windows
from deepcluster_core.models import NetworkConfig, build_network
from deepcluster_core.models.dense import Dense


@pytest.mark.parametrize(
    ("name", "expected"),
    [("alexnet", Place(16, 15)), ("vgg16", Place(16, 7.5)), ("smallnet", Place(8, 3.5))],
)
def test_place_of__is_the_centre_of_what_a_pixel_depends_on(name: str, expected: Place) -> None:
    size = 64 if name == "smallnet" else 224
    network = build_network(NetworkConfig(name=name, image_size=size), channels=3, seed=1).eval()
    place = place_of(network)
    assert place == expected
    assert place.stride == Dense(network).stride
    *layers, _ = (
        layer
        for layer in network.backbone.get_submodule("maps").modules()
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d)
    )
    # The same windows, but every pixel in one counts.
    linear = [
        nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
        if isinstance(layer, nn.MaxPool2d)
        else layer
        for layer in layers
    ]
    image = torch.zeros(1, 3, 448, 448, requires_grad=True)
    pixel = 13  # far from the edges
    nn.Sequential(*linear)(image)[0, 0, pixel, pixel].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(dim=(0, 1)).nonzero()
    assert (seen[0] + seen[-1]).item() / 2 == place.first + pixel * place.stride


def literal_windows(map_CHW: Tensor, box: list[float], place: Place, side: int) -> Tensor:
    """RoI pooling as published, one value after the other."""
    height, width = map_CHW.shape[1:]

    def pixel(at: float, count: int) -> int:
        on_map = min(max((at - place.first) / place.stride, 0), count - 1)
        return math.floor(on_map + 0.5)

    left, right = pixel(box[0], width), pixel(box[2] - 1, width)
    top, bottom = pixel(box[1], height), pixel(box[3] - 1, height)
    parts = torch.empty(len(map_CHW), side, side)
    for y in range(side):
        for x in range(side):
            rows = part(y, top, bottom - top + 1, side)
            columns = part(x, left, right - left + 1, side)
            parts[:, y, x] = map_CHW[:, rows, columns].amax(dim=(1, 2))
    return parts


def part(number: int, start: int, count: int, side: int) -> slice:
    return slice(start + number * count // side, start + math.ceil((number + 1) * count / side))


@pytest.mark.parametrize("place", [Place(16, 0), Place(16, 15), Place(8, 3.5)], ids=str)
def test_pooled_windows__is_roi_pooling_of_the_moved_boxes(place: Place) -> None:
    generator = np.random.default_rng(0)
    map_1CHW = torch.from_numpy(generator.random((1, 3, 20, 30), np.float32))
    low = generator.random((50, 2)) * (420, 280)
    box_R4 = np.concatenate((low, low + 4 + generator.random((50, 2)) * 200), axis=1)
    box_R4 = torch.from_numpy(box_R4.astype(np.float32).round())  # halves would round either way

    windows_RCSS = pooled_windows(map_1CHW, box_R4 + 0.25, place, side=4)

    for window_CSS, box in zip(windows_RCSS, (box_R4 + 0.25).tolist(), strict=True):
        assert torch.equal(window_CSS, literal_windows(map_1CHW[0], box, place, 4))


def test_pooled_windows__a_region_at_the_edge_still_has_something() -> None:
    map_1CHW = torch.ones(1, 1, 4, 4)
    edges_R4 = torch.tensor([[0.0, 0, 1, 1], [63, 63, 64, 64], [0, 63, 64, 64]])
    assert (pooled_windows(map_1CHW, edges_R4, Place(16, 15), side=3) == 1).all()


def test_pooled_windows__are_the_same_of_a_map_in_bfloat16() -> None:
    map_1CHW = torch.rand(1, 2, 9, 9).bfloat16()
    box_R4 = torch.tensor([[5.0, 20, 90, 110]])
    narrow, wide = (
        pooled_windows(values, box_R4, Place(16, 0), side=2)
        for values in (map_1CHW, map_1CHW.float())
    )
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, wide)
