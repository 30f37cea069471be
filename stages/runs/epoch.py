"""One epoch, which is the method: every arrow of data between stages stands here, and only here."""

from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol

from deepcluster_core.stage import StageFunction
from stages.cluster import cluster
from stages.extract import extract
from stages.index import index
from stages.score import score
from stages.train import train

STAGES: dict[str, StageFunction[...]] = {
    stage.name: stage for stage in (index, extract, cluster, train, score)
}
"""The stages of the loop in the order of the data."""
P = ParamSpec("P")


class Make(Protocol):
    """What to do with a stage: run it, or only note where its artifact goes."""

    def __call__(
        self, stage: StageFunction[P], epoch: int | None, /, *args: P.args, **inputs: P.kwargs
    ) -> Path:
        """Return the folder of the stage's artifact, which the next stages read."""
        ...


@dataclass(frozen=True)
class Before:
    """Artifacts of the epoch before; None in the first."""

    labels: Path | None = None
    checkpoint: Path | None = None


def one_epoch(make: Make, epoch: int, images: Path, before: Before, *, warm_start: bool) -> Before:
    """Extract, cluster, train, score; return what the next epoch reads.

    Args:
        make: called for each stage.
        epoch: counted from 0.
        images: the images artifact.
        before: of the epoch before.
        warm_start: k-means starts from the labels of the epoch before (`cluster.warm_start`).
    """
    start = before.labels if warm_start else None
    features = make(extract, epoch, images=images, checkpoint=before.checkpoint)
    labels = make(cluster, epoch, images=images, features=features, previous=start)
    checkpoint = make(train, epoch, images=images, labels=labels, checkpoint=before.checkpoint)
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
