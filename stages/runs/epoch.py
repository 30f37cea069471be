"""One epoch of the method. The flow of data between the stages is defined here, and only here."""

from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol

from deepcluster_core.stage import StageFunction
from stages.cluster import cluster
from stages.extract import extract
from stages.index import index
from stages.score import score
from stages.train import TrainConfig, train

STAGES: dict[str, StageFunction[...]] = {
    stage.name: stage for stage in (index, extract, cluster, train, score)
}
"""The stages of the loop by name, in the order in which data flows through them."""
EPOCH_STAGES = {name: stage for name, stage in STAGES.items() if stage is not index}
"""The stages of every epoch; index runs once, before the first."""
EPOCH_KINDS = tuple(stage.kind for stage in EPOCH_STAGES.values())
"""The kinds of artifact that each epoch has, in the order in which they are made."""
P = ParamSpec("P")


class Make(Protocol):
    """Callback for each stage of the loop: runs it, or only notes where its artifact goes."""

    def __call__(
        self, stage: StageFunction[P], epoch: int | None, /, *args: P.args, **inputs: P.kwargs
    ) -> Path:
        """Return the folder of the stage's artifact, which the next stages read."""
        ...


@dataclass(frozen=True)
class Before:
    """Artifacts of the previous epoch that an epoch reads; None in the first epoch."""

    labels: Path | None = None
    checkpoint: Path | None = None


def one_epoch(
    make: Make,
    epoch: int,
    images: Path,
    before: Before,
    *,
    warm_start: bool,
    training: TrainConfig,
    trains: bool = True,
) -> Before:
    """Extract, cluster, train and score; return the artifacts that the next epoch reads.

    Args:
        make: callback for each stage.
        epoch: number of the epoch, counted from 0.
        images: folder of the images artifact.
        before: artifacts of the previous epoch.
        warm_start: start k-means from the labels of the previous epoch (`cluster.warm_start`).
        training: its settings. With `train.prototypes.bank`, what is clustered are the embeddings
            that training has computed, and only the first epoch extracts features.
        trains: whether the network is trained; without, the clusters alone are scored.
    """
    start = before.labels if warm_start else None
    # The network of the previous epoch computes the features, and is then trained further.
    if training.has_bank and before.checkpoint is not None:
        features = before.checkpoint
    else:
        features = make(extract, epoch, images=images, checkpoint=before.checkpoint)
    labels = make(cluster, epoch, images=images, features=features, previous=start)
    checkpoint = None
    if trains:
        checkpoint = make(
            train,
            epoch,
            images=images,
            labels=labels,
            checkpoint=before.checkpoint,
            features=features if training.reads_features else None,
        )
    make(
        score,
        epoch,
        images=images,
        features=features,
        labels=labels,
        previous=before.labels,
        checkpoint=checkpoint,
    )
    return Before(labels, checkpoint)
