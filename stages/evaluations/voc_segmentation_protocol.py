"""The protocol of voc-segmentation: every number of a fully convolutional network's training."""

from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from deepcluster_core.config import Precision, StrictConfig
from deepcluster_core.evaluation.voc.fine_tuning import Part
from deepcluster_core.evaluation.voc.segmentation.fcn import Transfer
from deepcluster_core.training.learner import Sgd


class VocSegmentationConfig(StrictConfig):
    """The protocol of table 2's segmentation, in one of its two modes."""

    train: Part
    """What is trained: the linear layers on frozen convolutions (fc6-8), or everything (all)."""

    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained, in either mode. The running
    statistics stay those of the checkpoint."""

    training_list: str = Field(min_length=1)
    """Pictures to train on: a list in ImageSets/Segmentation. To use the masks of SBD, add them to
    the data set and name a list of their pictures here, without those of `judged_list`."""

    judged_list: str = Field(min_length=1)
    """Pictures to judge on: a list in ImageSets/Segmentation."""

    select: bool
    """Whether to hold out a fifth of the training list and judge on it, for choosing the other
    keys. The held-out pictures are chosen by the digest of their names, and `judged_list` is not
    read."""

    padding: NonNegativeInt
    """Width of the border of mean colour around a picture, pixels. With it, fc6 reads whole windows
    at the edge of the picture."""

    batch_size: PositiveInt
    """Pictures in a step."""

    iterations: PositiveInt
    """Training steps."""

    lr: Annotated[FiniteFloat, Field(gt=0)]
    """Learning rate of all steps, for a loss that is the mean over the pixels of a picture."""

    momentum: float = Field(ge=0, lt=1)
    """Momentum of SGD."""

    weight_decay: FiniteFloat = Field(ge=0)
    """L2 penalty on all trained parameters."""

    cache_bytes: NonNegativeInt
    """Main memory for masks and for the maps of frozen convolutions, or for masks and decoded
    pictures if everything is trained. What does not fit is computed each time. The 1,464 pictures
    of VOC 2012 take 0.3 GB for masks, and either 0.3 GB for AlexNet's maps in bfloat16 (0.6 GB in
    float32) or 0.8 GB for decoded pictures."""

    precision: Precision
    """Number format of the forward pass; weights, scores of pixels and updates are float32."""

    def transfer(self) -> Transfer:
        """Return the settings of the training, with a constant learning rate and no clipping."""
        # Without further arguments, the rate stays and gradients are not clipped.
        sgd = Sgd(self.lr, self.momentum, self.weight_decay)
        return Transfer(self.train, self.train_batch_norm, self.padding, sgd)
