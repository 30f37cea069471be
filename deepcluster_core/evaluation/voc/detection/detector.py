"""Fast R-CNN on one of our networks: regions of a map -> fc6, fc7 -> class and box of each region.

Suffixes: R regions, C classes and the background, which is class 0, K detections, O objects; maps
are (1, channels, H, W), windows (R, channels, S, S).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepcluster_core import seeding
from deepcluster_core.config import Precision
from deepcluster_core.data.decode import Pixels
from deepcluster_core.evaluation.voc.detection.boxes import (
    best_of_overlapping,
    box_coder,
    clipped_to,
)
from deepcluster_core.evaluation.voc.detection.proposal_network import (
    Proposing,
    proposal_network,
    propose,
)
from deepcluster_core.evaluation.voc.detection.sampling import (
    Objects,
    Sample,
    Sampling,
    sample_regions,
)
from deepcluster_core.evaluation.voc.detection.windows import pooled_windows
from deepcluster_core.evaluation.voc.fine_tuning import Part, Start, freeze, last_linear_layers
from deepcluster_core.features import to_device, to_images
from deepcluster_core.models.dense import Dense
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast, exact_float32
from deepcluster_core.training.learner import Learner, Sgd

BOX_UNITS = (10.0, 10.0, 5.0, 5.0)
"""Factors of shifts and of logarithms of sizes, with which targets vary by about 1. They are the
constants of the released code's later version; the publication measures them on the targets."""
REGIONS_AT_ONCE = 512  # when judging: windows of 19 MB for AlexNet, 51 MB for VGG-16


@dataclass(frozen=True)
class Chosen:
    """The settings by which the detections of a picture are chosen."""

    nms_iou: float
    """Intersection over union with a better detection of the class above which one is dropped."""
    score: float
    """Probability that the class of a detection must exceed."""
    detections: int
    """Largest number of detections, the best of all classes together."""


@dataclass(frozen=True)
class Design:
    """The parts of a detector, and the settings of its training."""

    part: Part
    train_batch_norm: bool
    renew: bool
    """Whether fc6 and fc7 are initialised anew, like the layer of scores."""
    weight_std: float
    """Standard deviation of new weights, which are normal around 0."""
    box_std: float
    """Standard deviation of the weights of the layer that moves boxes."""
    sgd: Sgd
    sampling: Sampling
    proposing: Proposing | None
    """Settings of the proposal network; None if proposals come with the pictures."""
    chosen: Chosen

    @property
    def has_fixed_maps(self) -> bool:
        """Whether training leaves the maps unchanged."""
        return self.part == "fc6-8" and not self.train_batch_norm


@dataclass(frozen=True)
class Example:
    """A scaled picture to learn from."""

    map_1CHW: Tensor
    """Map on the device, with gradients if the layers below it are trained."""
    size: tuple[int, int]
    """Height and width of the picture, pixels."""
    objects: Objects
    proposals_P4: Tensor | None
    """Proposals; None if the detector proposes regions."""


@dataclass(frozen=True)
class Detections:
    """The detections in one picture, best first."""

    box_K4: Tensor
    """Boxes in pixels of the scaled picture."""
    label_K: Tensor
    """Labels, 1 to the number of classes."""
    score_K: Tensor
    """Probabilities of the labels."""


class Detector(Learner):
    """A network with new layers for classes and boxes, and its optimiser."""

    def __init__(
        self,
        network: Network,
        design: Design,
        *,
        num_classes: int,
        device: str,
        precision: Precision,
        seed: int,
    ) -> None:
        """Add the new layers, freeze the rest as asked, and move everything to the device.

        Args:
            network: modified in place; see `Dense` for the networks that are supported.
            design: parts of the detector and settings of its training.
            num_classes: number of classes without the background.
            device: a torch device.
            precision: number format of the forward pass; weights, losses and boxes are float32.
            seed: seed of new weights, dropout, and the sampling of regions.

        Raises:
            ConfigError: the network cannot be split into convolutions and linear layers, see
                `Dense`.
        """
        self._dense = Dense(network)
        self._place = self._dense.place(pooled=False)
        self._design = design
        self._precision: Precision = precision
        self._rpn = None
        num_labels = 1 + num_classes  # with the background
        start = Start(design.weight_std, 0.0)
        with seeding.torch_seeded(seeding.derive(seed, "weights")):
            self._score = nn.Linear(network.feature_dim, num_labels)
            self._box = nn.Linear(network.feature_dim, 4 * num_labels)
            start(self._score)
            Start(design.box_std, 0.0)(self._box)
            if design.renew:
                for layer in last_linear_layers(network.backbone):
                    start(layer)
            if design.proposing is not None:
                self._rpn = proposal_network(self._dense.channels, self._place, design.proposing)
        freeze(network, design.part, train_batch_norm=design.train_batch_norm)
        self.has_fixed_maps = design.has_fixed_maps
        modules: dict[str, nn.Module] = {"network": network, "score": self._score, "box": self._box}
        if self._rpn is not None:
            modules["rpn"] = self._rpn
        for module in modules.values():
            to_device(module, device)
        self._coder = box_coder(BOX_UNITS)
        super().__init__(design.sgd, modules, seed=seed, device=device)

    def map(self, picture_HWC: Pixels, *, flipped: bool) -> Tensor:
        """Return map_1CHW of a scaled picture, in the number format of the forward pass."""
        image_1CHW = to_images(picture_HWC[None], self.device)
        with autocast(self.device, self._precision):
            if flipped:
                image_1CHW = image_1CHW.flip(3)
            return self._dense.map(image_1CHW, pooled=False)

    def learn(self, examples: Sequence[Example], step: int) -> Tensor:
        """Take one step and return its loss, on the device.

        The sampling of regions and dropout depend on the seed and the step only.

        Args:
            examples: pictures to learn from; all of their regions have equal weight.
            step: number of the step, counted from 0.
        """
        return self.descend(lambda: self._loss(examples), step)

    @torch.no_grad()
    @exact_float32()
    def detect(
        self,
        map_1CHW: Tensor,
        size: tuple[int, int],
        proposals_R4: Tensor | None,
    ) -> tuple[Detections, Tensor]:
        """Return the detections in a picture, and the proposals that were examined.

        Args:
            map_1CHW: map of the picture.
            size: height and width of the picture, pixels.
            proposals_R4: proposals; None if the detector proposes regions.
        """
        if proposals_R4 is None:
            assert self._rpn is not None
            proposals_R4, _ = propose(self._rpn, map_1CHW, size)

        # The windows of all regions at once would need too much memory.
        scores: list[Tensor] = []
        moves: list[Tensor] = []
        for some_R4 in proposals_R4.split(REGIONS_AT_ONCE):
            # Without a name, so that two blocks of windows are never in memory together.
            score_RC, move_RX = self._judged(self._windows(map_1CHW, some_R4))
            scores.append(score_RC)
            moves.append(move_RX)

        probability_RC = torch.cat(scores).softmax(dim=1)
        box_RX = self._coder.decode_single(torch.cat(moves), proposals_R4)
        box_RC4 = clipped_to(box_RX.unflatten(1, (-1, 4)), size)
        # Column 0 is the background, which is not a detection.
        box_RC4 = box_RC4[:, 1:]
        probability_RC = probability_RC[:, 1:]
        return _best(box_RC4, probability_RC, self._design.chosen), proposals_R4

    def _loss(self, examples: Sequence[Example]) -> Tensor:
        """Return the sum of all losses, which are means over regions, anchors or pictures."""
        windows: list[Tensor] = []
        samples: list[Sample] = []
        loss = torch.zeros((), device=self.device)
        for example in examples:
            map_1CHW = example.map_1CHW
            objects = example.objects
            proposals_P4 = example.proposals_P4
            if proposals_P4 is None:
                assert self._rpn is not None
                proposals_P4, proposing_loss = propose(
                    self._rpn,
                    map_1CHW,
                    example.size,
                    learn_N4=objects.box_O4,
                )
                loss = loss + proposing_loss / len(examples)
            sample = sample_regions(proposals_P4, objects, self._design.sampling)
            samples.append(sample)
            windows.append(self._windows(map_1CHW, sample.box_R4))

        # The regions of all pictures pass the linear layers together.
        score_RC, move_RX = self._judged(torch.cat(windows))
        label_R = torch.cat([sample.label_R for sample in samples])
        object_R4 = torch.cat([sample.target_R4 for sample in samples])
        box_R4 = torch.cat([sample.box_R4 for sample in samples])
        target_R4 = self._coder.encode_single(object_R4, box_R4)
        return loss + region_loss(score_RC, move_RX, label_R, target_R4)

    def _windows(self, map_1CHW: Tensor, box_R4: Tensor) -> Tensor:
        return pooled_windows(map_1CHW, box_R4, self._place, side=self._dense.window)

    def _judged(self, windows_RCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Return score_RC, before the softmax, and the moves of each region's box, (R, 4 C)."""
        with autocast(self.device, self._precision):
            hidden_RD = self._dense.hidden(windows_RCSS)
            score_RC = self._score(hidden_RD)
            move_RX = self._box(hidden_RD)
        return score_RC.float(), move_RX.float()


def region_loss(
    score_RC: Tensor,
    move_RX: Tensor,
    label_R: Tensor,
    target_R4: Tensor,
) -> Tensor:
    """Return Fast R-CNN's loss: cross-entropy of classes plus smooth L1 of boxes.

    Both are means over all regions, although boxes of the background have no loss. The source is
    Girshick 2015, section 2.3; the released code divides in this way.

    Args:
        score_RC: scores before the softmax.
        move_RX: moves of boxes (R, 4 C), four values for each class.
        label_R: labels, 0 to C - 1.
        target_R4: desired move of each region, for its own class.
    """
    # Only the move for a region's own class has a loss.
    foreground = label_R.nonzero()[:, 0]
    move_RC4 = move_RX.unflatten(1, (-1, 4))
    own_move_O4 = move_RC4[foreground, label_R[foreground]]
    total = functional.smooth_l1_loss(own_move_O4, target_R4[foreground], reduction="sum")
    box_loss = total / len(label_R)
    class_loss = functional.cross_entropy(score_RC, label_R)
    return class_loss + box_loss


def _best(box_RC4: Tensor, probability_RC: Tensor, chosen: Chosen) -> Detections:
    """Choose the best boxes among those of every class and region, without the background."""
    # Clipping may have left boxes empty.
    low_RC2, high_RC2 = box_RC4.split(2, dim=2)
    is_box_RC = (high_RC2 > low_RC2).all(dim=2)
    is_probable_RC = probability_RC > chosen.score
    region, column = (is_box_RC & is_probable_RC).nonzero(as_tuple=True)
    box_K4 = box_RC4[region, column]
    score_K = probability_RC[region, column]
    # NMS returns the best detection first.
    kept = best_of_overlapping(box_K4, score_K, column, chosen.nms_iou)
    best = kept[: chosen.detections]
    # Without the background, column 0 is the class with label 1.
    label = column[best] + 1
    return Detections(box_K4[best], label, score_K[best])
