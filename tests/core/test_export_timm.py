"""Suffixes: N images, C channels, S pixels of a side, D values of a feature."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from deepcluster_core.errors import ConfigError
from deepcluster_core.export import METADATA
from deepcluster_core.export_timm import LAYERS, check_in_timm, write_timm_folder
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig, ProjectionConfig
from deepcluster_core.models.network import Network

SIZE = 48


def written(folder: Path, name: str, channels: int = 3) -> Network:
    """Write a network with a projection to a folder, and return it in eval mode."""
    head = ProjectionConfig(hidden=8, dim=4)
    config = NetworkConfig(name=name, image_size=SIZE, sobel=False, projection=head)
    network = build_network(config, channels=channels, seed=1).train()
    with torch.no_grad():
        network.feature(torch.rand(4, channels, SIZE, SIZE))  # moves the running statistics
    write_timm_folder(folder, network, name=name, size=SIZE, resize=60, metadata={"run": "mine"})
    return network.eval()


def test_write_timm_folder__describes_weights_and_images(tmp_path: Path) -> None:
    network = written(tmp_path / "out", "torchvision:resnet18")

    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["architecture"], config["num_features"]) == ("resnet18", 512)
    images = config["pretrained_cfg"]
    assert images["input_size"] == [3, SIZE, SIZE]
    assert images["crop_pct"] == SIZE / 60
    assert images["mean"] == pytest.approx([0.485, 0.456, 0.406])
    weights = load_file(tmp_path / "out/model.safetensors")
    assert weights.keys() == network.backbone.state_dict().keys(), "the projection is left out"
    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()[METADATA]) == {"run": "mine"}


@pytest.mark.parametrize("name", ["alexnet", "smallnet", "resnet18-small", "torchvision:vit_b_16"])
def test_check_in_timm__names_formats_for_networks_that_timm_lacks(name: str) -> None:
    with pytest.raises(ConfigError, match=r"timm has no network[^\n]*\n  Fix: .*safetensors.*onnx"):
        check_in_timm(name, sobel=False)


def test_check_in_timm__refuses_the_sobel_filter() -> None:
    check_in_timm("torchvision:resnet50", sobel=False)
    with pytest.raises(ConfigError, match=r"Sobel filter[^\n]*\n  Fix: .*network\.sobel: false"):
        check_in_timm("torchvision:resnet50", sobel=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("torchvision:resnet18", 3),
        ("torchvision:resnet18", 1),
        ("torchvision:resnet50", 3),
        ("torchvision:densenet121", 3),
        ("timm:resnet10t", 3),
        ("timm:vit_tiny_patch16_224", 3),
    ],
)
def test_write_timm_folder__timm_computes_the_same_features(
    name: str, channels: int, tmp_path: Path
) -> None:
    timm: Any = pytest.importorskip("timm")
    network = written(tmp_path / "out", name, channels)

    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()

    images_NCSS = torch.rand(3, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted_ND = network.feature(images_NCSS)
        found_ND = loaded((images_NCSS - network.mean_C11) / network.std_C11)
    torch.testing.assert_close(found_ND, wanted_ND, rtol=1e-4, atol=1e-5)
    data = timm.data.resolve_model_data_config(loaded)
    assert tuple(data["input_size"]) == (channels, SIZE, SIZE)
    assert data["interpolation"] == "bilinear"
    classifier = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=5)
    assert classifier(images_NCSS).shape == (3, 5), "to be fine-tuned"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet10t"])
def test_write_timm_folder__hugging_face_computes_the_same_features(
    name: str, tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    transformers: Any = pytest.importorskip("transformers")
    network = written(tmp_path / "out", name)

    loaded = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()

    images_NCSS = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted_ND = network.feature(images_NCSS)
        given_NCSS = (images_NCSS - network.mean_C11) / network.std_C11
        found_ND = loaded(pixel_values=given_NCSS).pooler_output
    torch.testing.assert_close(found_ND, wanted_ND, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", LAYERS)
def test_layers__timm_names_the_weights_of_torchvision_alike(architecture: str) -> None:
    timm: Any = pytest.importorskip("timm")
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = timm.create_model(architecture).state_dict()
        ours = models.get_model(architecture).state_dict()

    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert f"{LAYERS[architecture]['first_conv']}.weight" in ours
    assert f"{LAYERS[architecture]['classifier']}.weight" in ours
