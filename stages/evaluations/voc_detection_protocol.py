"""The protocol of voc-detection: every number of Fast R-CNN and of its region proposals."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt

from deepcluster_core.config import Precision, StrictConfig
from deepcluster_core.evaluation.voc.detection.detector import Chosen, Design
from deepcluster_core.evaluation.voc.detection.proposal_network import Proposing
from deepcluster_core.evaluation.voc.detection.sampling import Sampling
from deepcluster_core.evaluation.voc.detection.scaling import Scale
from deepcluster_core.evaluation.voc.fine_tuning import Part
from deepcluster_core.training.learner import Sgd


class VocDetectionConfig(StrictConfig):
    """The protocol of table 2's detection, in one of its two modes."""

    train: Part
    """What is trained in addition to the new layers: fc6 and fc7 on frozen convolutions (fc6-8), or
    everything (all)."""

    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained. The running statistics stay
    those of the checkpoint."""

    select: bool
    """Whether to train on train and judge on val, for choosing the other keys. If not, train on
    trainval and judge on test."""

    proposals: Literal["auto", "file", "rpn"]
    """Where region proposals come from. file: a file in the data folder, with the layout described
    in deepcluster_core/evaluation/voc/detection/proposal_files.py. rpn: a region proposal network
    that is trained together with the detector, on the maps that the detector reads. auto: the file
    if there is one, and rpn if not."""

    renew: bool
    """Whether fc6 and fc7 are initialised anew instead of taken from the checkpoint."""

    batch_size: PositiveInt
    """Pictures in a step."""

    iterations: PositiveInt
    """Training steps."""

    lr: float = Field(gt=0, allow_inf_nan=False)
    """Learning rate of the first step."""

    drop: float = Field(gt=0, le=1)
    """Factor by which the learning rate decays."""

    drop_every: PositiveInt
    """Steps between two decays."""

    momentum: float = Field(ge=0, lt=1)
    """Momentum of SGD."""

    weight_decay: FiniteFloat = Field(ge=0)
    """L2 penalty on all trained parameters."""

    clip_norm: PositiveFloat
    """Largest L2 norm of the gradients of all trained parameters; greater ones are scaled down."""

    weight_std: PositiveFloat
    """Standard deviation of the normal distribution around 0 that initialises the weights of the
    class scores, and of fc6 and fc7 if they are renewed. Their biases start at 0."""

    box_std: PositiveFloat
    """Standard deviation that initialises the layer which moves boxes."""

    regions: PositiveInt
    """Regions of a picture that are drawn in a step."""

    foreground: float = Field(ge=0, le=1)
    """Largest share of these regions that may show an object, 0 to 1."""

    object_iou: float = Field(gt=0, le=1)
    """Least intersection over union with an object at which a region counts as showing it."""

    background_iou: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)]
    """Least intersection over union with some object at which a region counts as background, if it
    stays below `object_iou`. auto: 0.1 for proposals from a file, which is a substitute for mining
    hard examples, and 0 for proposals of a network."""

    flip: float = Field(ge=0, le=1)
    """Probability that a picture is mirrored in training."""

    shorter_side: PositiveInt | Literal["auto"]
    """Length to which the shorter side of a picture is scaled, pixels. auto: 600 for networks with
    an image_size of 224, and in proportion for others."""

    longer_side: PositiveInt | Literal["auto"]
    """Largest length of the longer side, pixels. auto: 5/3 of the shorter side."""

    max_proposals: PositiveInt
    """Number of proposals that are kept for each picture, the first ones, if they come from a
    file."""

    anchor_sides: tuple[PositiveFloat, ...] | Literal["auto"]
    """Square roots of the areas of the proposal network's anchors, in pixels of the scaled picture;
    each area has three shapes. auto: 128, 256 and 512 for a shorter side of 600, and in proportion
    for others."""

    training_proposals: PositiveInt
    """Largest number of regions that the proposal network offers per picture in training."""

    judged_proposals: PositiveInt
    """Largest number of regions that the proposal network offers per picture in judging."""

    nms_iou: float = Field(ge=0, le=1)
    """Intersection over union above which only the better of two detections of a class is kept."""

    min_score: float = Field(ge=0, lt=1)
    """Probability that a detection must exceed."""

    detections: PositiveInt
    """Largest number of detections per picture, the best of all classes together."""

    cache_bytes: NonNegativeInt
    """Main memory for what training reads repeatedly: maps of frozen convolutions, or decoded
    pictures if everything is trained. What does not fit is computed each time, with an equal
    result."""

    precision: Precision
    """Number format of the forward pass; weights, losses, boxes and updates are float32."""

    @property
    def subsets(self) -> tuple[str, str]:
        """The names of the subsets to train on and to judge on."""
        if self.select:
            return "train", "val"
        return "trainval", "test"

    def scale(self, image_size: int) -> Scale:
        """Return the size to scale pictures to, for a network that was trained on `image_size`."""
        shorter = self.shorter_side
        if shorter == "auto":
            # Fast R-CNN's 600 px for networks that read 224 px, in proportion for others.
            shorter = round(600 * image_size / 224)
        longer = self.longer_side
        if longer == "auto":
            # Fast R-CNN limits the longer side to 1,000 px.
            longer = round(shorter * 5 / 3)
        return Scale(shorter, longer)

    def design(self, image_size: int, *, proposes: bool) -> Design:
        """Return the design of a detector.

        Args:
            image_size: image size that the network was trained on, pixels.
            proposes: whether the detector has a network that proposes regions.
        """
        anchor_sides = self.anchor_sides
        if anchor_sides == "auto":
            # Faster R-CNN's sides, which are meant for a shorter side of 600 px.
            shorter = self.scale(image_size).shorter_side
            anchor_sides = tuple(side * shorter / 600 for side in (128, 256, 512))
        background_iou = self.background_iou
        if background_iou == "auto":
            background_iou = 0.0 if proposes else 0.1
        proposing = None
        if proposes:
            proposing = Proposing(anchor_sides, self.training_proposals, self.judged_proposals)
        return Design(
            part=self.train,
            train_batch_norm=self.train_batch_norm,
            renew=self.renew,
            weight_std=self.weight_std,
            box_std=self.box_std,
            sgd=Sgd(
                self.lr,
                self.momentum,
                self.weight_decay,
                lr_factor=self.drop,
                lr_factor_every=self.drop_every,
                clip_norm=self.clip_norm,
            ),
            sampling=Sampling(self.regions, self.foreground, self.object_iou, background_iou),
            proposing=proposing,
            chosen=Chosen(self.nms_iou, self.min_score, self.detections),
        )
