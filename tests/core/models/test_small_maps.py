"""Suffixes: N images, I input channels, O output channels, H rows, W columns."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.features import to_device
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.small_maps import SmallMapConv2d, use_products_for_small_maps

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


def pair_of(kernel: int, stride: int, padding: int, *, bias: bool = True) -> list[nn.Conv2d]:
    """torch's convolution, and ours with equal weights."""
    torch.manual_seed(0)
    theirs = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias).double()
    ours = deepcopy(theirs)
    use_products_for_small_maps(nn.Sequential(ours))
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


@pytest.mark.parametrize("frozen", ["input", "weight", "bias"])
def test_small_maps__gradients_where_something_is_frozen(frozen: str) -> None:
    maps_NIHW = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator())
    found: list[list[Tensor | None]] = []
    for layer in pair_of(3, 1, 1):
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


def test_small_maps__no_images() -> None:
    _, ours = pair_of(3, 1, 1)
    output, of_maps, of_weight, of_bias = results_of(ours, torch.zeros(0, 3, 2, 2).double())
    assert output.shape == (0, 5, 2, 2)
    assert of_maps.shape == (0, 3, 2, 2)
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


def test_small_maps__other_layers_stay() -> None:
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
    use_products_for_small_maps(others)
    assert not any(isinstance(layer, SmallMapConv2d) for layer in others)


def test_small_maps__a_network_computes_the_same_with_the_same_parameters() -> None:
    config = NetworkConfig(name="resnet18-small", image_size=16)
    network = build_network(config, channels=3, seed=3).eval()
    parameters = dict(network.named_parameters())
    drawn = torch.Generator().manual_seed(0)
    images_NIHW = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=drawn)
    with torch.no_grad():
        expected_ND = network.feature(images_NIHW)
        to_device(network, "cpu")
        assert any(isinstance(layer, SmallMapConv2d) for layer in network.modules())
        # Sums in another order, in twenty layers: 1e-5 of the largest value.
        atol = 1e-5 * expected_ND.abs().max().item()
        torch.testing.assert_close(network.feature(images_NIHW), expected_ND, rtol=1e-4, atol=atol)
    for name, parameter in network.named_parameters():
        assert parameter is parameters[name]
