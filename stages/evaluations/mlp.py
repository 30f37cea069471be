"""Mlp: images, labels and networks -> accuracy of a perceptron on the last layer. Section 4.3."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.stage import External, stage
from stages.evaluations.declaration import Evaluation, Score
from stages.evaluations.shared.probing import AUTO, FEATURE, Probing, ProbingConfig, Shape
from stages.evaluations.shared.results import RESULTS, write_results


class MlpConfig(ProbingConfig):
    """The protocol of the multilayer perceptron of sections 3.2 and 4.3."""

    layer: str
    """A named layer of the network, see `Network.layer_output`. auto: the last convolution, as in
    section 3.2, or for torchvision's networks the feature."""

    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | Literal["auto"]
    """Units of each hidden layer. auto: two layers as wide as the network's feature, which for
    AlexNet correspond to fc6 and fc7."""

    dropout: float = Field(ge=0, lt=1)
    """Dropout probability before each layer of the perceptron."""

    def shape_of(self, network: Network) -> Shape:
        """Return the layer of a network that the perceptron reads, and its hidden layers."""
        layer = self.layer
        if layer == AUTO:
            # The last convolution or, for a network without named ones, the feature.
            layer = [FEATURE, *network.taps][-1]
        hidden = self.hidden
        if hidden == AUTO:
            hidden = (network.feature_dim, network.feature_dim)
        return Shape((layer,), hidden, self.dropout)


@stage(name="mlp", version=1, kind="evaluations/mlp", files=(RESULTS,), ranks="many")
def mlp(
    draft: Draft,
    network: NetworkConfig,
    protocol: MlpConfig,
    /,
    *,
    images: Path,
    validation: Path | None,
    checkpoint: Path | None,
    supervised: External | None,
) -> None:
    """Write the accuracies, in a row for each compared network.

    Args:
        draft: artifact of the evaluation.
        network: the run's architecture.
        protocol: how the perceptrons are trained and judged.
        images: the training images; images without a label are ignored.
        validation: images artifact to judge on; None: a part of `images`.
        checkpoint: the epoch's checkpoint; None compares no trained network.
        supervised: .safetensors file of weights trained with true labels, to compare with.
    """
    probing = Probing("mlp", draft, network, protocol, images, validation, checkpoint, supervised)
    rows = probing.rows(protocol.shape_of)
    for row in rows:
        del row["layer"]  # equal in all rows, and named in the protocol
    write_results(draft, rows, protocol)


EVALUATION = Evaluation(
    mlp,
    about="A multilayer perceptron on the last layer",
    data="labelled",
    on_ranks=MlpConfig.on_ranks,
    score=Score("top1_best"),
)
