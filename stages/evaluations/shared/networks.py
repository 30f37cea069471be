"""The networks that an evaluation compares: before and after training, and one that knew labels."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.checkpoints import load_weights, restore_network
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.stage import External
from stages.evaluations.shared.network_names import GIVEN, RANDOM, REFERENCES, SUPERVISED


@dataclass(frozen=True)
class ComparedNetworks:
    """The networks of an evaluation, in the order of the rows in tables 1 to 3 of the paper.

    They are `random`, as the run's seed initialises it; `given weights`, if the run begins with
    such; `epoch 7`, if a checkpoint is given; and `supervised`, if its weights are given. Iteration
    yields each name with its network. A network is built only when its turn comes, so that memory
    holds one at a time.
    """

    network: NetworkConfig
    """Architecture of all networks."""
    channels: int
    """Number of channels of the images."""
    context: Context
    """Holds the run's seed and the number of the epoch."""
    checkpoint: Path | None
    """Checkpoint of the evaluated epoch; None compares no trained network."""
    supervised: External | None
    """A .safetensors file of weights, named as in the network's state_dict."""

    @property
    def names(self) -> list[str]:
        """The names in order."""
        names = [RANDOM]
        if self.network.weights is not None:
            names.append(GIVEN)
        if self.checkpoint is not None:
            names.append(f"epoch {self.context.epoch}")
        if self.supervised is not None:
            names.append(SUPERVISED)
        return names

    @property
    def pictured(self) -> str:
        """The name of the network whose results are drawn: the run's, trained if it is."""
        return [name for name in self.names if name != SUPERVISED][-1]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, Network]]:
        """Yield names and networks.

        Raises:
            ArtifactError: weights are damaged or do not fit the network.
            ConfigError: the architecture does not support this image size or number of channels.
        """
        without_weights = self.network.model_copy(update={"weights": None})
        for name in self.names:
            # Only the trained network comes from a checkpoint; the others start as initialised.
            checkpoint = None if name in REFERENCES else self.checkpoint
            network = restore_network(
                self.network if name == GIVEN else without_weights,
                channels=self.channels,
                seed=self.context.seed,
                checkpoint=checkpoint,
            )
            # The given weights replace all that were initialised.
            if name == SUPERVISED and self.supervised is not None:
                load_weights(self.supervised.path, network)
            yield name, network


def supervised_weights(path: Path) -> External:
    """Return a weights file as an input of an evaluation, with the SHA-256 of its bytes.

    Raises:
        ArtifactError: the file cannot be read.
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
