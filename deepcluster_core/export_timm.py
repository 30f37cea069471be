"""Export a network to a folder that timm loads: `config.json` and `model.safetensors`.

    timm.create_model("local-dir:FOLDER", pretrained=True)

Importing this needs no timm.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.export import METADATA
from deepcluster_core.models.network import Network

CONFIG, WEIGHTS = "config.json", "model.safetensors"
RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
LIBRARY, TIMM = "torchvision", "timm"
LAYERS: Mapping[str, dict[str, str]] = {
    **{key: {"first_conv": "conv1", "classifier": "fc"} for key in RESNETS},
    **{key: {"first_conv": "features.conv0", "classifier": "classifier"} for key in DENSENETS},
}
"""The networks of torchvision that timm has under the same name, with weights of the same names and
the same output, compared with timm 1.0.31; and their first and last layer, which timm replaces for
images of other channels, or for classes."""


def check_in_timm(name: str, *, sobel: bool) -> None:
    """Raise ConfigError if timm cannot hold a network.

    Args:
        name: `network.name` of a recipe.
        sobel: whether the network has a Sobel filter.
    """
    library, _, architecture = name.partition(":")
    has_twin = library == TIMM or (library == LIBRARY and architecture in LAYERS)
    if not has_twin:
        raise ConfigError(
            f"--format timm: timm has no network with the layers of network.name = {name}; it has "
            f"those of timm:NAME, and of torchvision:NAME for {', '.join(LAYERS)}.\n"
            f"  Fix: use --format safetensors for the weights, or onnx for a file that runs."
        )
    if sobel:
        raise ConfigError(
            "--format timm: networks of timm begin with a convolution, not with the Sobel filter "
            "of this run. As a part of that convolution it would differ at the border of the "
            "image, where both are padded by zeros.\n"
            "  Fix: use --format onnx, torchscript or torch-export, which hold the filter; or "
            "train with network.sobel: false."
        )


def write_timm_folder(
    folder: Path,
    network: Network,
    *,
    name: str,
    size: int,
    resize: int,
    metadata: Mapping[str, Any],
) -> None:
    """Write the backbone of a network, without its projection, as timm reads it.

    Args:
        folder: folder to create.
        network: the network, on the CPU.
        name: `network.name` of its recipe, which `check_in_timm` accepts.
        size: side of its images in pixels.
        resize: pixels of the shorter side before the central crop of that size.
        metadata: plain values, stored in the file of the weights as JSON text.

    Raises:
        OSError: the folder cannot be written.
    """
    weights: dict[str, Tensor] = {}
    for key, weight in network.backbone.state_dict().items():
        weights[key] = weight.detach().contiguous()  # safetensors stores row-major tensors only
    encoded = save(weights, metadata={"format": "pt", METADATA: json.dumps(metadata)})
    config = _config(network, name=name, size=size, resize=resize)
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(encoded)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _config(network: Network, *, name: str, size: int, resize: int) -> dict[str, Any]:
    """Return timm's description of a network and of the images that it reads."""
    library, _, tagged = name.partition(":")
    architecture, _, _ = tagged.partition(".")  # the tag names weights that were not used
    channels = len(network.mean_C11)
    arguments: dict[str, Any] = {}
    if channels != 3:
        arguments["in_chans"] = channels
    if library == TIMM:
        layers = _layers_of(network.backbone)
        if _is_for_one_size(network.backbone):
            arguments["img_size"] = size
    else:
        layers = LAYERS[architecture]
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": network.feature_dim,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [channels, size, size],
            "fixed_input_size": "img_size" in arguments,
            "interpolation": "bilinear",
            "crop_pct": size / resize,
            "crop_mode": "center",
            "mean": network.mean_C11.flatten().tolist(),
            "std": network.std_C11.flatten().tolist(),
            **layers,
        },
    }
    if arguments:
        config["model_args"] = arguments
    return config


def _layers_of(body: nn.Module) -> dict[str, Any]:
    """Return what timm records of a network of its own about the layers that it replaces."""
    recorded = _recorded(body)
    layers: dict[str, Any] = {}
    for key in ("first_conv", "classifier"):
        if recorded.get(key):
            layers[key] = recorded[key]
    return layers


def _is_for_one_size(body: nn.Module) -> bool:
    """Return whether a network of timm is built for one size of images, such as a transformer."""
    return bool(_recorded(body).get("fixed_input_size"))


def _recorded(body: nn.Module) -> Mapping[str, Any]:
    """Return what timm records of a network of its own; nothing for any other."""
    recorded: Any = getattr(body, "pretrained_cfg", None)
    return recorded or {}
