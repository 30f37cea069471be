"""Suffixes: N images, C channels, S pixels of a side, D values of a feature."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.export import WRITERS, Portable, write_network
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig, ProjectionConfig
from deepcluster_core.models.network import Backbone, Network
from tests.support.foreign_reader import run_elsewhere

SIZE = 64  # the smallest images that AlexNet takes
ROUNDING = 1e-5
"""Of the greatest value; products are summed in another order elsewhere: 1e-6 was measured."""


def network_of(name: str, size: int, *, sobel: bool = True) -> Network:
    """Return a network whose normalisations are not the identity, as after training."""
    config = NetworkConfig(name=name, image_size=size, sobel=sobel)
    network = build_network(config, channels=3, seed=4)
    with torch.no_grad():
        for _ in range(3):
            network(images_of(8, size))
    return network.eval()


def images_of(count: int, size: int) -> Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(count))


@pytest.mark.slow
def test_write_network__alexnet_with_sobel_runs_in_programs_without_our_code(
    tmp_path: Path,
) -> None:
    network, images_NCSS = network_of("alexnet", SIZE), images_of(5, SIZE)
    np.save(tmp_path / "images.npy", images_NCSS.numpy())
    with torch.no_grad():
        wanted_ND = network.feature(images_NCSS).numpy()

    for format, (suffix, _) in WRITERS.items():
        path = tmp_path / f"network{suffix}"
        portable = Portable(network, None)
        write_network(path, portable, format=format, metadata={"of": format}, size=SIZE)

    found, about = run_elsewhere(tmp_path)
    assert len(found) == 9, "three runnable formats, three sizes of batches"
    for name, found_ND in found.items():
        apart = np.abs(found_ND - wanted_ND[: len(found_ND)]).max() / np.abs(wanted_ND).max()
        assert apart < ROUNDING, name
    assert about == {format: {"of": format} for format in WRITERS}


@pytest.mark.parametrize("sobel", [True, False])
@pytest.mark.parametrize("layer", [None, "conv3", "backbone.maps.conv4", "backbone.fc5"])
def test_portable__is_the_networks_own_feature(layer: str | None, *, sobel: bool) -> None:
    network, images_NCSS = network_of("smallnet", 16, sobel=sobel), images_of(4, 16)
    with torch.no_grad():
        wanted_ND = (
            network.feature(images_NCSS)
            if layer is None
            else network.layer_feature(images_NCSS, layer)
        )
        found_ND = Portable(network, layer)(images_NCSS)

    assert found_ND.shape == wanted_ND.shape
    scale = float(wanted_ND.abs().max())
    torch.testing.assert_close(found_ND, wanted_ND, rtol=0, atol=ROUNDING * scale)


def projected(size: int = 16) -> Network:
    config = NetworkConfig(
        name="smallnet", image_size=size, projection=ProjectionConfig(hidden=12, dim=5)
    )
    network = build_network(config, channels=3, seed=4)
    with torch.no_grad():
        network(images_of(8, size))
    return network.eval()


def test_portable__embeddings_by_name() -> None:
    network, images_NCSS = projected(), images_of(4, 16)
    with torch.no_grad():
        found_ND = Portable(network, "projection")(images_NCSS)
        torch.testing.assert_close(found_ND, network(images_NCSS), rtol=0, atol=ROUNDING)
        feature_ND = network.feature(images_NCSS)
        assert Portable(network, None)(images_NCSS).shape == feature_ND.shape == (4, 256)


def test_portable__network_without_a_projection() -> None:
    with pytest.raises(ConfigError, match="'projection' cannot be cut out"):
        Portable(network_of("smallnet", 16), "projection")


def test_write_network__with_the_projection(tmp_path: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    network, images_NCSS = projected(), images_of(3, 16)
    safetensors, program = tmp_path / "network.safetensors", tmp_path / "network.pt2"
    for path, format in ((safetensors, "safetensors"), (program, "torch-export")):
        portable = Portable(network, "projection")
        write_network(path, portable, format=format, metadata={}, size=16)

    assert load_file(safetensors).keys() == network.state_dict().keys()
    with torch.no_grad():
        found_ND = torch.export.load(program).module()(images_NCSS)
        torch.testing.assert_close(found_ND, network(images_NCSS), rtol=0, atol=ROUNDING)


def test_portable__layer_outside_the_backbone_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'sobel' cannot be cut out.*\n.*not part of the backbone"
    ):
        Portable(network_of("smallnet", 16), "sobel")


def test_write_network__safetensors_of_torchvision_are_named_as_there(tmp_path: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415
    from torchvision.models import resnet18  # noqa: PLC0415

    path = tmp_path / "network.safetensors"
    config = NetworkConfig(name="torchvision:resnet18", image_size=32, sobel=False)
    network = build_network(config, channels=3, seed=1)
    write_network(path, Portable(network, None), format="safetensors", metadata={}, size=32)

    report = resnet18().load_state_dict(load_file(path), strict=False)

    assert set(report.missing_keys) == {"fc.weight", "fc.bias"}
    assert report.unexpected_keys == []


def test_write_network__without_the_packages_of_onnx_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "deepcluster_core.export.find_spec", lambda name: None if name == "onnx" else there(name)
    )
    portable = Portable(network_of("smallnet", 16), None)

    with pytest.raises(
        ConfigError, match=r"not installed: onnx\.\n  Fix: pip install onnx onnxscript"
    ):
        write_network(tmp_path / "n.onnx", portable, format="onnx", metadata={}, size=16)


class _LooksAtTheBatch(nn.Module):
    """What it computes depends on the number of images, by a branch that no graph holds."""

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW.flatten(start_dim=1) * (2.0 if len(images_NCHW) == 2 else 1.0)


@pytest.mark.parametrize("format", ["torchscript", "torch-export", "onnx"])
def test_write_network__graph_that_is_another_function_is_refused(
    format: str, tmp_path: Path
) -> None:
    body = Backbone(_LooksAtTheBatch(), feature_dim=3 * 4 * 4, relu_missing=False)
    network = Network(body, mean=(0.5,) * 3, std=(0.2,) * 3, sobel=False)
    portable = Portable(network, None)

    with pytest.raises(ConfigError, match="this network cannot be written in this format"):
        write_network(tmp_path / "network", portable, format=format, metadata={}, size=4)
