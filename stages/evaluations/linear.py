"""Linear: images, labels and networks -> accuracy of a linear classifier on each layer. Table 1."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.stage import External, stage
from stages.evaluations.declaration import Evaluation, Score
from stages.evaluations.shared.probing import AUTO, FEATURE, Probing, ProbingConfig, Shape
from stages.evaluations.shared.results import RESULTS, write_results


class LinearConfig(ProbingConfig):
    """The protocol of table 1: a linear classifier on each layer."""

    layers: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["auto"]
    """Named layers of the network, see `Network.layer_output`. auto: all its convolutions, or for
    torchvision's networks only the feature."""

    def shape_of(self, network: Network) -> Shape:
        """Return the layers of a network that get a linear classifier."""
        if self.layers != AUTO:
            return Shape(self.layers)
        # Networks of torchvision have no named convolutions.
        return Shape(tuple(network.taps) or (FEATURE,))


@stage(name="linear", version=1, kind="evaluations/linear", files=(RESULTS,), ranks="many")
def linear(
    draft: Draft,
    network: NetworkConfig,
    protocol: LinearConfig,
    /,
    *,
    images: Path,
    validation: Path | None,
    checkpoint: Path | None,
    supervised: External | None,
) -> None:
    """Write the accuracies, in a row for each layer of each compared network.

    Args:
        draft: artifact of the evaluation.
        network: the run's architecture.
        protocol: how the classifiers are trained and judged.
        images: the training images; images without a label are ignored.
        validation: images artifact to judge on; None: a part of `images`.
        checkpoint: the epoch's checkpoint; None compares no trained network.
        supervised: .safetensors file of weights trained with true labels, to compare with.
    """
    probing = Probing(
        "linear", draft, network, protocol, images, validation, checkpoint, supervised
    )
    write_results(draft, probing.rows(protocol.shape_of), protocol)


EVALUATION = Evaluation(
    linear,
    about="Linear classifiers on every layer, table 1",
    data="labelled",
    on_ranks=LinearConfig.on_ranks,
    score=Score("top1_best", each="layer"),
)
