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
    """Whether scales and shifts of batch normalisation are trained in either mode. Its statistics
    stay those of the checkpoint."""

    training_list: str = Field(min_length=1)
    """Pictures to train on: a list of ImageSets/Segmentation. Who has put SBD's masks into the tree
    gives a list of theirs here, without those of `judged_list`."""

    judged_list: str = Field(min_length=1)
    """Pictures to judge."""

    select: bool
    """Hold out a fifth of the training list and judge that, to choose the other keys by: its
    pictures are chosen by the digest of their names. `judged_list` is then not read."""

    padding: NonNegativeInt
    """Pixels of the mean colour around a picture, so that fc6 reads whole windows at its border."""

    batch_size: PositiveInt
    """Pictures in a step."""

    iterations: PositiveInt
    """Steps."""

    lr: Annotated[FiniteFloat, Field(gt=0)]
    """Learning rate of all steps, for a loss that is the mean over the pixels of a picture."""

    momentum: float = Field(ge=0, lt=1)
    """Of all that is trained."""

    weight_decay: FiniteFloat = Field(ge=0)
    """L2 penalty on all that is trained."""

    cache_bytes: NonNegativeInt
    """Main memory for masks and, where convolutions are frozen, their maps of the pictures, else
    decoded pictures. What does not fit is computed each time. VOC 2012's 1,464 take 0.3 GB and 0.3
    (of AlexNet in bfloat16; 0.6 in float32) or 0.8."""

    precision: Precision
    """Number format of the forward pass; weights, scores of pixels and updates are float32."""

    def transfer(self) -> Transfer:
        """Return it as the core takes it: gradients of any length, and one learning rate."""
        sgd = Sgd(self.lr, self.momentum, self.weight_decay)
        return Transfer(self.train, self.train_batch_norm, self.padding, sgd)
