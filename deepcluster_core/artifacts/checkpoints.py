"""A checkpoint: the backbone and its optimiser's momentum, in safetensors.

Loading one never runs code. How the epoch went stands in its manifest.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepcluster_core import seeding
from deepcluster_core.errors import ArtifactError
from deepcluster_core.models import Network, NetworkConfig, build_network

MODEL = "model.safetensors"
MOMENTUM = "momentum.safetensors"


def write_checkpoint(folder: Path, *, backbone: nn.Module, momentum: dict[str, Tensor]) -> None:
    """Write the state of a network after an epoch.

    Args:
        folder: of the artifact.
        backbone: without the head, which every epoch makes anew.
        momentum: buffers of the backbone's optimiser, by the name of the parameter.
    """
    save_file(_contiguous(backbone.state_dict()), folder / MODEL, metadata={"format": "pt"})
    save_file(_contiguous(momentum), folder / MOMENTUM)


def restore_network(
    config: NetworkConfig, *, channels: int, seed: int, checkpoint: Path | None
) -> Network:
    """Return the network of a checkpoint; without one, as the run's seed initialises it.

    Raises:
        ArtifactError: the checkpoint is damaged, or of another network.
        ConfigError: there is no such network for images of these channels and size.
    """
    network = build_network(config, channels=channels, seed=seeding.derive(seed, "init"))
    if checkpoint is not None:
        load_backbone(checkpoint, network)
    return network


def load_backbone(folder: Path, backbone: nn.Module) -> None:
    """Fill `backbone` with a checkpoint's weights.

    Raises:
        ArtifactError: damaged, or of another network.
    """
    state = _load(folder / MODEL)
    expected = backbone.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if shapes != wanted:
        differing = sorted(name for name in shapes | wanted if shapes.get(name) != wanted.get(name))
        raise ArtifactError(
            f"{folder / MODEL}: holds another network than the recipe's: {differing[0]} is "
            f"{shapes.get(differing[0], 'absent')}, expected {wanted.get(differing[0], 'absent')}"
            f" ({len(differing)} such tensors).\n"
            f"  Fix: use another --run, or the recipe that this run began with."
        )
    backbone.load_state_dict(state)


def load_momentum(folder: Path) -> dict[str, Tensor]:
    """Return the momentum buffers by the name of their parameter.

    Raises:
        ArtifactError: missing or damaged.
    """
    return _load(folder / MOMENTUM)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors stores row-major tensors only; channels-last weights are copied into that order.
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own class and OSError
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path}: cannot be read ({error}).\n"
        f"  Fix: run the train stage of that epoch again: deepcluster stage train … --force"
    )
