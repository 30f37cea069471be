"""The protocol of voc-detection: every number of Fast R-CNN, and what it proposes regions by."""

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
    """What is trained beside the new layers: fc6 and fc7 on frozen convolutions (fc6-8), or
    everything (all)."""

    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained. Its statistics stay those of
    the checkpoint."""

    select: bool
    """Train on train and judge on val, to choose the other keys by; else trainval and test."""

    proposals: Literal["auto", "file", "rpn"]
    """Where region proposals come from: a file in the data folder, laid out as described in
    deepcluster_core/evaluation/voc/detection/proposal_files.py, or a region proposal network that
    is trained with the detector, on the maps that the detector reads. auto: the file if there is
    one."""

    renew: bool
    """Whether fc6 and fc7 begin anew instead of as the checkpoint has them."""

    batch_size: PositiveInt
    """Pictures in a step."""

    iterations: PositiveInt
    """Steps."""

    lr: float = Field(gt=0, allow_inf_nan=False)
    """Learning rate of the first step."""

    drop: float = Field(gt=0, le=1)
    """What it is multiplied with, again and again."""

    drop_every: PositiveInt
    """Steps from one time to the next."""

    momentum: float = Field(ge=0, lt=1)
    """Of all that is trained."""

    weight_decay: FiniteFloat = Field(ge=0)
    """L2 penalty on all that is trained."""

    clip_norm: PositiveFloat
    """Gradients of a greater L2 norm, over all that is trained, are scaled to it."""

    weight_std: PositiveFloat
    """New layers begin with weights that are normal around 0 with this standard deviation, and
    biases of 0: the scores of classes; fc6 and fc7 if they are renewed."""

    box_std: PositiveFloat
    """The same for the layer that moves boxes."""

    regions: PositiveInt
    """Regions of a picture in a step."""

    foreground: float = Field(ge=0, le=1)
    """Share of them that may be of an object."""

    object_iou: float = Field(gt=0, le=1)
    """A region that overlaps an object so much or more is of it: intersection over union."""

    background_iou: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)]
    """One that overlaps some object so much or more, but less than that, is background. auto: 0.1
    for proposals of a file, which stands for looking for hard examples, 0 of a network."""

    flip: float = Field(ge=0, le=1)
    """Probability that a picture is mirrored in training."""

    shorter_side: PositiveInt | Literal["auto"]
    """Pixels that the shorter side of a picture becomes. auto: 600 for networks of an image_size of
    224, in proportion for others."""

    longer_side: PositiveInt | Literal["auto"]
    """Pixels of the longer side at most. auto: 5/3 of the shorter one's."""

    max_proposals: PositiveInt
    """Of a file: so many of each picture, the first ones."""

    anchor_sides: tuple[PositiveFloat, ...] | Literal["auto"]
    """Of the network that proposes: roots of the areas of its anchors, pixels of the scaled
    picture, each in three shapes. auto: 128, 256 and 512 for a shorter side of 600, in
    proportion for others."""

    training_proposals: PositiveInt
    """Of that network: regions of a picture to draw from in training, at most."""

    judged_proposals: PositiveInt
    """Of that network: regions of a picture to look at, at most."""

    nms_iou: float = Field(ge=0, le=1)
    """Of two detections of a class that overlap more, the better one is kept."""

    min_score: float = Field(ge=0, lt=1)
    """Detections have a greater probability."""

    detections: PositiveInt
    """Of a picture: the best of all classes, at most."""

    cache_bytes: NonNegativeInt
    """Main memory for what training reads again: maps of frozen convolutions, else decoded
    pictures. What does not fit is made each time; the result is the same."""

    precision: Precision
    """Number format of the forward pass; weights, losses, boxes and updates are float32."""

    @property
    def subsets(self) -> tuple[str, str]:
        """Names of what is trained on and what is judged."""
        return ("train", "val") if self.select else ("trainval", "test")

    def scale(self, image_size: int) -> Scale:
        """Return how large pictures become, for a network that was trained on this size."""
        shorter = self.shorter_side
        shorter = round(600 * image_size / 224) if shorter == "auto" else shorter
        longer = self.longer_side
        return Scale(shorter, round(shorter * 5 / 3) if longer == "auto" else longer)

    def design(self, image_size: int, *, proposes: bool) -> Design:
        """Return the detector, as the core takes it."""
        sides, background = self.anchor_sides, self.background_iou
        if sides == "auto":
            shorter = self.scale(image_size).shorter_side
            sides = tuple(side * shorter / 600 for side in (128, 256, 512))
        if background == "auto":
            background = 0.0 if proposes else 0.1
        proposing = Proposing(sides, self.training_proposals, self.judged_proposals)
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
            sampling=Sampling(self.regions, self.foreground, self.object_iou, background),
            proposing=proposing if proposes else None,
            chosen=Chosen(self.nms_iou, self.min_score, self.detections),
        )
