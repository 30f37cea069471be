"""Suffixes: N images, I input channels, O output channels, H rows, W columns."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.features import to_device
from deepcluster_core.models import winograd
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.cpu_convolutions import CpuConv2d, use_fast_convolutions

WIDE = (96, 128)
"""Input and output channels for which transforms pay."""

# kernel, stride, padding, rows and columns of the map
SMALL = [
    (3, 1, 1, 1, 1),
    (3, 1, 1, 2, 2),
    (3, 1, 1, 1, 2),
    (3, 2, 1, 2, 2),
    (3, 2, 1, 4, 3),
    (3, 1, 0, 4, 3),
    ((1, 3), (1, 2), (0, 1), 2, 3),
    (5, 1, 2, 2, 1),
    (7, 4, 3, 5, 5),
    (2, 2, 0, 5, 4),
    (3, 3, 3, 1, 1),  # one of the positions covers padding alone, before the map
    (2, 4, 3, 1, 1),  # … both do, the second behind it
]

# kernel, padding, rows and columns of the map, channels
TRANSFORMED = [
    (3, 1, 8, 8, WIDE),
    (3, 1, 13, 13, (256, 384)),  # tiles stick out; all three passes
    (3, 0, 7, 10, (128, 96)),
    (3, 2, 6, 7, WIDE),
    (5, 2, 8, 8, WIDE),
    (5, 2, 27, 27, (48, 192)),
    (5, 0, 12, 9, WIDE),
    (5, 4, 6, 8, WIDE),
]


def pair_of(
    kernel: int,
    stride: int,
    padding: int,
    *,
    bias: bool = True,
    channels: tuple[int, int] = (3, 5),
) -> list[nn.Conv2d]:
    """torch's convolution, and ours with equal weights."""
    torch.manual_seed(0)
    theirs = nn.Conv2d(*channels, kernel, stride, padding, bias=bias).double()
    ours = deepcopy(theirs)
    use_fast_convolutions(nn.Sequential(ours))
    return [theirs, ours]


def results_of(layer: nn.Conv2d, maps_NIHW: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of a sum of its squares."""
    maps_NIHW = maps_NIHW.clone().requires_grad_()
    output = layer(maps_NIHW)
    of_parameters = torch.autograd.grad(
        output.square().sum(), (maps_NIHW, *layer.parameters()), allow_unused=True
    )
    return (output, *of_parameters)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "rows", "columns"), SMALL)
def test_small_maps__outputs_and_gradients_of_torch(
    kernel: int, stride: int, padding: int, rows: int, columns: int, *, bias: bool
) -> None:
    theirs, ours = pair_of(kernel, stride, padding, bias=bias)
    maps_NIHW = torch.randn(4, 3, rows, columns, dtype=torch.float64)
    for memory in (torch.contiguous_format, torch.channels_last):
        given = maps_NIHW.to(memory_format=memory)
        torch.testing.assert_close(results_of(ours, given), results_of(theirs, given))


def test_small_maps__products_only_where_the_result_is_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_torch: list[tuple[int, ...]] = []
    convolve = nn.Conv2d.forward

    def noted(layer: nn.Conv2d, maps: Tensor) -> Tensor:
        by_torch.append(tuple(maps.shape[2:]))
        return convolve(layer, maps)

    monkeypatch.setattr(nn.Conv2d, "forward", noted)
    _, ours = pair_of(3, 2, 1)
    for side in (1, 2, 3, 4, 5, 8):
        ours(torch.zeros(1, 3, side, side, dtype=torch.float64))
    assert by_torch == [(5, 5), (8, 8)]


@pytest.mark.parametrize("channels", [(3, 5), WIDE, (256, 384)])
@pytest.mark.parametrize("frozen", ["input", "weight", "bias"])
def test_cpu_convolutions__gradients_where_something_is_frozen(
    frozen: str, channels: tuple[int, int]
) -> None:
    side = 2 if channels == (3, 5) else 6
    maps_NIHW = torch.randn(4, channels[0], side, side, dtype=torch.float64)
    found: list[list[Tensor | None]] = []
    for layer in pair_of(3, 1, 1, channels=channels):
        tensors = {"input": maps_NIHW.clone(), **dict(layer.named_parameters())}
        for name, tensor in tensors.items():
            tensor.requires_grad_(name != frozen)
        layer(tensors["input"]).square().sum().backward()
        found.append([tensor.grad for tensor in tensors.values()])
    assert [one is None for one in found[0]] == [one is None for one in found[1]]
    for theirs, ours in zip(*found, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


def test_small_maps__a_single_image_without_a_batch_and_no_data_at_all() -> None:
    theirs, ours = pair_of(3, 1, 1)
    maps_IHW = torch.randn(3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(ours(maps_IHW), theirs(maps_IHW))
    no_data = torch.empty(2, 3, 2, 2, dtype=torch.float64, device="meta")
    assert ours.to("meta")(no_data).shape == (2, 5, 2, 2)


@pytest.mark.parametrize(
    ("kernel", "channels", "side"), [(3, (3, 5), 2), (3, WIDE, 8), (3, (256, 384), 8), (5, WIDE, 8)]
)
def test_cpu_convolutions__no_images(kernel: int, channels: tuple[int, int], side: int) -> None:
    _, ours = pair_of(kernel, 1, kernel // 2, channels=channels)
    maps_NIHW = torch.zeros(0, channels[0], side, side, dtype=torch.float64)
    output, of_maps, of_weight, of_bias = results_of(ours, maps_NIHW)
    assert output.shape == (0, channels[1], side, side)
    assert of_maps.shape == maps_NIHW.shape
    assert not of_weight.any()
    assert not of_bias.any()


def test_small_maps__autocast() -> None:
    theirs, ours = (layer.float() for layer in pair_of(3, 1, 1))
    maps_NIHW = torch.randn(4, 3, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = results_of(theirs, maps_NIHW), results_of(ours, maps_NIHW)
    for ours_, theirs_ in zip(found, expected, strict=True):
        assert ours_.dtype == theirs_.dtype
        # bfloat16 has 8 bits; torch rounds sums once, these products up to four times.
        torch.testing.assert_close(ours_, theirs_, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(("channels", "side"), [((3, 5), 2), (WIDE, 8), ((256, 384), 8)])
def test_cpu_convolutions__what_follows_may_change_the_output_in_place(
    channels: tuple[int, int], side: int
) -> None:
    maps_NIHW = torch.randn(2, channels[0], side, side, dtype=torch.float64)
    found: list[tuple[Tensor, ...]] = []
    for layer in pair_of(3, 1, 1, bias=False, channels=channels):
        output = nn.Sequential(layer, nn.ReLU(inplace=True))(maps_NIHW)
        found.append((output, *torch.autograd.grad(output.square().sum(), (layer.weight,))))
    torch.testing.assert_close(found[1], found[0])


def test_cpu_convolutions__other_layers_stay() -> None:
    class Own(nn.Conv2d):
        """Does more than convolve, as timm's do."""

    others = nn.Sequential(
        Own(4, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    )
    use_fast_convolutions(others)
    assert not any(isinstance(layer, CpuConv2d) for layer in others)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "padding", "rows", "columns", "channels"), TRANSFORMED)
def test_winograd__outputs_and_gradients_of_torch(
    kernel: int, padding: int, rows: int, columns: int, channels: tuple[int, int], *, bias: bool
) -> None:
    theirs, ours = pair_of(kernel, 1, padding, bias=bias, channels=channels)
    shape = tuple(theirs.weight.shape)
    assert winograd.plan_of((rows, columns), shape, (1, 1), (padding, padding)) is not None
    maps_NIHW = torch.randn(3, channels[0], rows, columns, dtype=torch.float64)
    for memory in (torch.contiguous_format, torch.channels_last):
        given = maps_NIHW.to(memory_format=memory)
        torch.testing.assert_close(results_of(ours, given), results_of(theirs, given))


@pytest.mark.parametrize(
    ("kernel", "channels", "most"), [(3, WIDE, 1e-5), (3, (256, 384), 1e-5), (5, WIDE, 1e-4)]
)
def test_winograd__rounding(kernel: int, channels: tuple[int, int], most: float) -> None:
    """The largest error of float32, in standard deviations; bfloat16 has 1e-2."""
    theirs, ours = pair_of(kernel, 1, kernel // 2, channels=channels)
    maps_NIHW = torch.randn(16, channels[0], 13, 13, dtype=torch.float64).relu()
    exact = results_of(theirs, maps_NIHW)
    found = results_of(ours.float(), maps_NIHW.float())
    errors = [
        ((one - other).abs().max() / other.std()).item()
        for one, other in zip(found, exact, strict=True)
    ]
    assert all(error < most for error in errors), errors


def test_winograd__transforms_of_an_extraction_serve_training_as_well() -> None:
    winograd._transforms.cache_clear()  # pyright: ignore[reportPrivateUsage]
    _, ours = pair_of(5, 1, 2, channels=WIDE)
    maps_NIHW = torch.randn(2, WIDE[0], 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        extracted = ours(maps_NIHW)
    torch.testing.assert_close(results_of(ours, maps_NIHW)[0].detach(), extracted.clone())


def test_winograd__blocks_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair_of(5, 1, 2, channels=WIDE)
    maps_NIHW = torch.randn(5, WIDE[0], 9, 9, dtype=torch.float64)
    at_once = results_of(ours, maps_NIHW)
    monkeypatch.setattr(winograd, "VALUES_AT_ONCE", 2 * 9 * 64 * sum(WIDE))  # two images
    torch.testing.assert_close(results_of(ours, maps_NIHW), at_once)


@pytest.mark.parametrize(
    ("map_sides", "weight_shape", "stride", "padding"),
    [
        ((8, 8), (128, 96, 3, 3), (2, 2), (1, 1)),
        ((8, 8), (128, 96, 7, 7), (1, 1), (3, 3)),
        ((8, 8), (128, 96, 3, 5), (1, 1), (1, 2)),
        ((8, 8), (128, 96, 3, 3), (1, 1), (1, 0)),
        ((8, 8), (128, 96, 3, 3), (1, 1), (3, 3)),
        ((8, 8), (64, 64, 3, 3), (1, 1), (1, 1)),  # transforms would cost too much
        ((5, 5), (128, 96, 3, 3), (1, 1), (1, 1)),  # tiles of 2 x 2 stick out too far
        ((128, 128), (128, 96, 3, 3), (1, 1), (1, 1)),  # of one image, more than a cache holds
        ((2, 2), (128, 96, 3, 3), (1, 1), (0, 0)),  # no result at all, which torch explains
    ],
)
def test_winograd__other_convolutions_are_those_of_torch(
    map_sides: tuple[int, int],
    weight_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> None:
    assert winograd.plan_of((8, 8), (128, 96, 3, 3), (1, 1), (1, 1)) is not None
    assert winograd.plan_of(map_sides, weight_shape, stride, padding) is None


def test_winograd__never_in_16_bits() -> None:
    theirs, ours = (layer.float() for layer in pair_of(5, 1, 2, channels=WIDE))
    maps_NIHW = torch.randn(2, WIDE[0], 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(maps_NIHW), theirs(maps_NIHW), rtol=0, atol=0)
    narrow = maps_NIHW.bfloat16()
    found, expected = ours.bfloat16()(narrow), theirs.bfloat16()(narrow)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "side"), [("resnet18-small", 16), ("vgg16", 32), ("alexnet", 64)])
def test_cpu_convolutions__a_network_computes_the_same_with_the_same_parameters(
    name: str, side: int
) -> None:
    config = NetworkConfig(name=name, image_size=side)
    network = build_network(config, channels=3, seed=3).eval()
    parameters = dict(network.named_parameters())
    drawn = torch.Generator().manual_seed(0)
    images_NIHW = torch.randint(0, 256, (8, 3, side, side), dtype=torch.uint8, generator=drawn)
    with torch.no_grad():
        expected_ND = network.feature(images_NIHW)
        to_device(network, "cpu")
        assert any(isinstance(layer, CpuConv2d) for layer in network.modules())
        # Sums in another order, in up to twenty layers: 1e-4 of the largest value.
        atol = 1e-4 * expected_ND.abs().max().item()
        torch.testing.assert_close(network.feature(images_NIHW), expected_ND, rtol=1e-4, atol=atol)
    for parameter_name, parameter in network.named_parameters():
        assert parameter is parameters[parameter_name]
