"""The keys of `train` for DeepCluster-v2 (Caron et al. 2020). Importing this needs no torch."""

from typing import Annotated

from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt, field_validator

from deepcluster_core.config import StrictConfig


class PrototypesConfig(StrictConfig):
    """The centroids of the clusters as the classifier: it is not trained, and not drawn anew."""

    absent_when_none = frozenset(("soft",))

    temperature: PositiveFloat = 0.1
    """Divides the cosine of an embedding and a centroid, appendix D.1."""

    bank: bool = False
    """Cluster the embeddings that training itself computes, those of each image's views of the
    first kind, as in the paper. False: cluster what the extract stage computes, which takes an
    additional pass over the images and uses one network, without augmentation, for all of them.
    Images that an epoch does not draw keep their embeddings: with `train.balance: sample`, those of
    large clusters become many epochs old; with none and weigh, and whole passes between
    clusterings, up to one epoch."""

    soft: bool | None = None
    """Share the target of an image between its cluster and the nearest of the others: the softmax
    of the cosines of both centroids with what was clustered, divided by the temperature. Not part
    of DeepCluster-v2. None and false: its cluster alone."""

    @field_validator("soft")
    @classmethod
    def _default_is_none(cls, soft: bool | None) -> bool | None:
        return soft or None  # one artifact key for one result


class ScheduleConfig(StrictConfig):
    """A learning rate that rises linearly to `train.lr`, and then falls as half a cosine."""

    warmup_epochs: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Epochs in which it rises; can be fractional."""

    start_lr: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Learning rate of the first step of the rise."""

    final_lr: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Learning rate at the end."""

    epochs: PositiveInt
    """Epochs from the first step to the end. More epochs cannot be run with this schedule."""


class LarsConfig(StrictConfig):
    """Layer-wise adaptive rates (You et al. 2017): steps in proportion to the norm of a weight."""

    trust: PositiveFloat = 0.001
    """Norm of a step by the norm of its weight, before the learning rate."""
