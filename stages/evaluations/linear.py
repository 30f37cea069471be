"""Linear: images, labels and networks -> accuracy of a linear classifier on each layer. Table 1."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.stage import External, stage
from stages.evaluations.declaration import Evaluation, Score
from stages.evaluations.shared.probing import (
    AUTO,
    FEATURE,
    ProbedImages,
    Probing,
    ProbingConfig,
    Shape,
)
from stages.evaluations.shared.results import RESULTS, write_results


class LinearConfig(ProbingConfig):
    """The protocol of table 1."""

    layers: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["auto"]
    """Named layers of the network, see `Network.layer_output`. auto: all its convolutions, or, of
    torchvision's networks, its feature alone."""

    def shape_of(self, network: Network) -> Shape:
        """Return the layers as names."""
        if self.layers != AUTO:
            return Shape(self.layers)
        return Shape(tuple(network.taps) or (FEATURE,))


@stage(name="linear", version=1, kind="evaluations/linear", files=(RESULTS,))
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
    """Write the accuracies: a row for each layer of each network that is compared.

    Args:
        network: of the run.
        protocol: how the classifiers learn.
        images: to learn from; some of them are labelled.
        validation: another images artifact, to judge on; None: a part of `images`.
        checkpoint: of the epoch; None compares no trained network.
        supervised: a .safetensors file of weights of the same network, trained with labels.
    """
    probed = ProbedImages(images, validation)
    probing = Probing(draft, network, protocol, probed, checkpoint, supervised, "linear")
    rows = probing.rows(protocol.shape_of)
    write_results(draft, rows, protocol)


EVALUATION = Evaluation(
    linear,
    about="Linear classifiers on every layer, table 1",
    data="labelled",
    score=Score("top1_best", each="layer"),
)
