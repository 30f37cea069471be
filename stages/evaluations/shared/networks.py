"""The networks that an evaluation sets side by side: random, the run's, one trained with labels."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from deepcluster_core.artifacts.checkpoints import load_weights, restore_network
from deepcluster_core.errors import ArtifactError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.stage import External

RANDOM = "random"
SUPERVISED = "supervised"


def compared(
    network: NetworkConfig,
    *,
    channels: int,
    seed: int,
    checkpoint: Path | None,
    epoch: int | None,
    supervised: External | None,
) -> Iterator[tuple[str, Network]]:
    """Yield the name of each network to evaluate and the network itself, built when it is its turn.

    They are `random`, as the run's seed initialises it; `epoch 7`, by its checkpoint if there is
    one; and `supervised` if its weights are given. Tables 1 to 3 of the paper have these rows.

    Args:
        network: all have its architecture.
        channels: of the images.
        seed: of the run.
        checkpoint: of the epoch that is evaluated; None compares no trained network.
        epoch: its number.
        supervised: a .safetensors file with the names of the network's state_dict.

    Raises:
        ArtifactError: weights are damaged, or of another network.
        ConfigError: there is no such network for images of these channels and size.
    """
    yield RANDOM, restore_network(network, channels=channels, seed=seed, checkpoint=None)
    if checkpoint is not None:
        trained = restore_network(network, channels=channels, seed=seed, checkpoint=checkpoint)
        yield f"epoch {epoch}", trained
    if supervised is not None:
        reference = restore_network(network, channels=channels, seed=seed, checkpoint=None)
        load_weights(supervised.path, reference)
        yield SUPERVISED, reference


def num_compared(checkpoint: Path | None, supervised: External | None) -> int:
    """Return how many networks `compared` yields."""
    return 1 + (checkpoint is not None) + (supervised is not None)


def supervised_weights(path: Path) -> External:
    """Return a file of weights as an input of an evaluation, with the SHA-256 of its bytes.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(
            f"{path}: the weights trained with labels cannot be read ({error.strerror}).\n"
            f"  Fix: give the path of a .safetensors file, or leave it out."
        ) from error
    return External(path, digest)
