"""Read the weights that a network begins with from a file of another program.

The file is in safetensors, or a state_dict saved by torch. Its names are those of torchvision, of
timm, or of a checkpoint of this program. Reading it never runs code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.models.network import Network
from deepcluster_core.shortage import explain_damage
from deepcluster_core.text import listed

BACKBONE = "backbone."
WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "student")
"""Keys under which training programs store a state_dict among other things, in this order."""
PREFIXES = (BACKBONE, "module.", "encoder.", "_orig_mod.")
"""Prefixes that all names of a backbone can have: of this program, of `DataParallel`, and so on."""
CLASSIFIERS = (
    # torchvision and timm
    *("fc.", "classifier.", "head.", "heads.", "head_dist.", "last_linear.", "logits."),
    # torchvision's auxiliary classifiers
    *("AuxLogits.", "aux1.", "aux2."),
    # self-supervised training: this program, SwAV and DeepCluster-v2, and others
    *("projection.", "projection_head.", "projector.", "prototypes.", "mask_token"),
)
"""Beginnings of names that belong to a classifier or another head, which is dropped."""
MAX_SHOWN = 5
COUNTER = "num_batches_tracked"
"""A counter of batch normalisation, which old files lack and no result depends on."""


def load_starting_weights(network: Network, path: Path, *, name: str) -> None:
    """Replace the weights of a network's backbone by those of a file, in place.

    Classifiers in the file are dropped; the projection of the network keeps its weights.

    Args:
        network: a network whose weights are on the CPU.
        path: the file.
        name: `network.name` of the recipe, for messages.

    Raises:
        ConfigError: the file cannot be read, or belongs to a different network.
    """
    state = fitting_state(network, path, name=name)
    with torch.no_grad():
        for key, tensor in network.backbone.state_dict().items():
            if key in state:
                tensor.copy_(state[key])


def fitting_state(network: Network, path: Path, *, name: str) -> dict[str, Tensor]:
    """Return the tensors of a file by the names of the network's backbone.

    Args:
        network: a network, which may be on the meta device.
        path: the file.
        name: `network.name` of the recipe, for messages.

    Raises:
        ConfigError: the file cannot be read, or belongs to a different network.
    """
    wanted = network.backbone.state_dict()
    found = _without_prefixes(_read(path), wanted)
    state: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for key, tensor in found.items():
        if key in wanted:
            state[key] = tensor
        elif not key.startswith(CLASSIFIERS):
            unexpected.append(key)
    missing = [key for key in wanted if key not in state and not key.endswith(COUNTER)]
    if missing or unexpected:
        raise _other_names(path, name, found, missing, unexpected)
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise _other_shape(path, name, key, tensor, wanted[key])
    return state


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by its own names; they may still lie on the disk."""

    def explain(error: Exception) -> ConfigError:
        if isinstance(error, OSError) and error.strerror:
            return _unreadable(path, error.strerror)
        if type(error).__name__ == "UnpicklingError":
            # torch's message is long, and advises to load the file in a way that runs code.
            return _unreadable(path, "it holds something else than tensors, which could run code")
        return _unreadable(path, first_line(error))

    with explain_damage(explain):
        path.open("rb").close()  # explains best why a file cannot be opened
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    return _tensors(loaded, path)


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:  # noqa: ANN401  the content of a file
    """Return the state_dict in what `torch.load` has returned."""
    if isinstance(loaded, Mapping):
        for key in WRAPPERS:
            if isinstance(loaded.get(key), Mapping):
                return _tensors(loaded[key], path)
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise _unreadable(path, f"it holds a {type(loaded).__name__} without tensors")


def _unreadable(path: Path, cause: str) -> ConfigError:
    return ConfigError(
        f"network.weights: {path} cannot be read.\n"
        f"  Cause: {cause}\n"
        f"  Fix:   give a .safetensors file, or a state_dict that torch.save has written; to save "
        f"one: torch.save(model.state_dict(), path)"
    )


def _without_prefixes(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefixes that the names of the backbone share."""
    while True:
        if any(key in wanted for key in found):
            return found
        for prefix in PREFIXES:
            inner = {
                key.removeprefix(prefix): tensor
                for key, tensor in found.items()
                if key.startswith(prefix)
            }
            if inner:
                break
        else:
            return found
        # What lacks the prefix belongs to the file's other networks, and is checked like heads.
        others = {key: tensor for key, tensor in found.items() if not key.startswith(prefix)}
        found = inner | others


def _other_names(
    path: Path,
    name: str,
    found: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
) -> ConfigError:
    details: list[str] = []
    if missing:
        shown = listed(missing, limit=MAX_SHOWN)
        details.append(f"{len(missing)} tensors of the network are missing: {shown}")
    if unexpected:
        shown = listed(unexpected, limit=MAX_SHOWN)
        details.append(f"{len(unexpected)} tensors do not belong to it: {shown}")
    return ConfigError(
        f"network.weights: {path} does not hold weights of {name}.\n"
        f"  Cause: {'; '.join(details)}. The file seems to be {_looks_like(found)}\n"
        f"  Fix:   set network.name to the network of the file, or give another file"
    )


def _other_shape(path: Path, name: str, key: str, found: Tensor, wanted: Tensor) -> ConfigError:
    shapes = f"{key} is {tuple(found.shape)}, but {name} needs {tuple(wanted.shape)}"
    fix = "set network.name, and for vision transformers network.image_size, to those of the file"
    is_kernel = found.ndim == wanted.ndim == 4
    if is_kernel and found.shape[0] == wanted.shape[0] and found.shape[2:] == wanted.shape[2:]:
        num_found, num_wanted = found.shape[1], wanted.shape[1]
        shapes += f": its first layer reads {num_found} channels, the network's {num_wanted}"
        if num_wanted == 2:
            shapes += ", the two maps of the Sobel filter"
        fix = f"set network.sobel: false and dataset.channels: {num_found}"
    return ConfigError(
        f"network.weights: {path} does not fit network {name}.\n  Cause: {shapes}\n  Fix:   {fix}"
    )


def _looks_like(found: Mapping[str, Tensor]) -> str:
    """Return a guess, from the names of the tensors, which network a file belongs to."""
    blocks = [0, 0, 0, 0]
    for stage in range(4):
        blocks[stage] = len(
            {key.split(".")[1] for key in found if key.startswith(f"layer{stage + 1}.")}
        )
    if all(blocks):
        kind = "bottleneck" if "layer1.0.conv3.weight" in found else "basic"
        depth = sum(blocks) * (3 if kind == "bottleneck" else 2) + 2
        return f"a ResNet-{depth} ({kind} blocks), or one built like it"
    families = {
        "maps.conv1.conv.weight": "a network of this program: alexnet, vgg16 or smallnet",
        "blocks.0.attn.qkv.weight": "a vision transformer of timm",
        "conv_proj.weight": "a vision transformer of torchvision",
        "stages.0.blocks.0.conv_dw.weight": "a ConvNeXt of timm",
        "conv_stem.weight": "an EfficientNet or MobileNet of timm",
        "features.0.weight": "an AlexNet or VGG of torchvision",
        "features.0.0.weight": "a network of torchvision: an EfficientNet, MobileNet or ConvNeXt",
    }
    for key, family in families.items():
        if key in found:
            return family
    return f"of an unknown kind: {listed(list(found), limit=MAX_SHOWN)}"
