"""The `network` section of a recipe. Importing this needs no torch."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, PositiveInt, field_validator

from deepcluster_core.config import StrictConfig
from deepcluster_core.data.grey import GreyWeights, grey_weights
from deepcluster_core.local_paths import usable_path
from deepcluster_core.models.registry import NETWORKS, is_known, suggested

PROJECTION = "projection"
"""The layer whose output is the embedding, in a network with `network.projection`."""

_PositiveFloat = Annotated[FiniteFloat, Field(gt=0.0)]

# The usual RGB statistics of ImageNet's training images, on a scale of 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ProjectionConfig(StrictConfig):
    """A projection head: linear, batch normalisation, ReLU, linear, then scaled to length 1.

    The defaults are those of DeepCluster-v2 (Caron et al. 2020, appendix A.1).
    """

    hidden: PositiveInt = 2048
    """Values of the hidden layer."""

    dim: PositiveInt = 128
    """Values of an embedding."""


class NetworkConfig(StrictConfig):
    """The network and the transform of its input. Defaults: section 3.4 of the paper."""

    absent_when_none = frozenset(("projection", "weights"))
    by_contents = frozenset(("weights",))

    name: str = "alexnet"
    """`alexnet`, `vgg16`, `smallnet` (images of 16 to 64 px), `resnet18-small` (32 to 96 px),
    `torchvision:NAME` with any classification network of torchvision, for example
    `torchvision:resnet50`, or `timm:NAME` with any network of timm, if it is installed."""

    image_size: PositiveInt = 224
    """Side of the square crops that it sees, pixels."""

    sobel: bool = True
    """Replace the images by two fixed maps of their contrast, without colour."""

    dropout: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Probability, 0 to 1. 0.5 is the released code's. Networks of torchvision and timm keep their
    own, and `resnet18-small` has none."""

    projection: ProjectionConfig | None = None
    """A projection head between the feature and the classifier; its output is the layer
    `projection`. None: the classifier follows the feature, as in DeepCluster."""

    weights: Path | None = None
    """A file of weights to begin with: safetensors, or a `state_dict` that torch has saved. Its
    names are those of torchvision or timm, or of a run's `model.safetensors`; its classifier is
    dropped. Artifacts depend on its contents, not on its path. None: begin with random weights."""

    mean: tuple[FiniteFloat, ...] | None = None
    """Subtracted from each channel, on a scale of 0 to 1. Default: ImageNet's RGB statistics, or
    their average for every channel where there are not 3."""

    std: tuple[_PositiveFloat, ...] | None = None
    """Divides each channel after `mean`, on the same scale and with the same default."""

    @property
    def grey_weights(self) -> GreyWeights | None:
        """Weights of the channels in the sum with which a Sobel filter of colour images begins.

        None if the network has no filter, or `std` no three values.
        """
        std = self.std or IMAGENET_STD
        return grey_weights(std) if self.sobel and len(std) == 3 else None

    @field_validator("weights")
    @classmethod
    def _usable(cls, weights: Path | None) -> Path | None:
        if weights == Path():
            raise ValueError("is empty; leave it out to begin with random weights")
        return None if weights is None else usable_path(weights)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if not is_known(name):
            raise ValueError(
                f"unknown network {name!r}; known: {', '.join(NETWORKS)}{suggested(name)}"
            )
        return name
