"""Suffixes: N images, C channels, H rows, W columns."""

import pytest
import torch
from torch import nn

from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network


def network_of(size: int = 32, *, sobel: bool = False) -> Network:
    config = NetworkConfig(name="resnet18-small", image_size=size, sobel=sobel)
    return build_network(config, channels=3, seed=3).eval()


def images(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


def test_resnet18_small__computes_what_torchvisions_does_with_another_stem() -> None:
    from torchvision.models import resnet18  # noqa: PLC0415  slow

    network = network_of()
    theirs = resnet18()
    theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    theirs.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]

    theirs.load_state_dict(network.backbone.state_dict())

    inputs_NCHW = network.inputs(images(32))
    with torch.no_grad():
        expected_ND = theirs.eval()(inputs_NCHW)
        torch.testing.assert_close(network.feature(images(32)), expected_ND)


@pytest.mark.parametrize("size", [32, 96])
def test_resnet18_small__stages_by_name(size: int) -> None:
    network = network_of(size, sobel=True)
    with torch.no_grad():
        shapes = {tap: network.layer_output(images(size), tap).shape[1:] for tap in network.taps}
        feature_ND = network.feature(images(size))

    expected = {f"layer{n}": (64 << n - 1, *2 * (size >> n - 1,)) for n in range(1, 5)}
    assert shapes == expected
    assert feature_ND.shape == (2, network.feature_dim) == (2, 512)
    assert torch.isfinite(feature_ND).all()
