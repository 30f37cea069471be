"""One epoch, which is the method: every arrow of data between stages stands here, and only here."""

from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from stages import cluster, extract, index, score, train
from stages.runs.job import Input, Job

STAGES = {"index": index, "extract": extract, "cluster": cluster, "train": train, "score": score}


class Make(Protocol):
    """What is done with a stage: run it, run it again, or only say where its artifact is."""

    def __call__(self, stage: ModuleType, epoch: int | None, /, **inputs: Input) -> Job:
        """Return the job whose output the next stages read."""
        ...


@dataclass(frozen=True)
class Before:
    """What an epoch takes over from the one before; nothing in the first."""

    labels: Job | None = None
    checkpoint: Job | None = None


def one_epoch(make: Make, epoch: int, images: Job, before: Before) -> Before:
    """Extract, cluster, train, score; return what the next epoch takes over."""
    features = make(extract, epoch, images=images, checkpoint=before.checkpoint)
    start = before.labels if images.recipe.cluster.warm_start else None
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


def each_epoch(make: Make, num_epochs: int, images: Job) -> None:
    """Go through the first epochs of a run, one after the other."""
    before = Before()
    for epoch in range(num_epochs):
        before = one_epoch(make, epoch, images, before)
