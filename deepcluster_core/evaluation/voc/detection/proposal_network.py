"""Proposals for pictures without a file of them: torchvision's region proposal network on our maps.

Suffixes: C channels, H rows, W columns of a map, A anchors of a pixel, N boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deepcluster_core.models.dense import Place

# Importing it takes seconds, see boxes.py.
if TYPE_CHECKING:
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.rpn import RegionProposalNetwork

# Ren et al. 2015 (Faster R-CNN), sections 3.1 and 3.3, and its released code.
RATIOS = (0.5, 1.0, 2.0)  # height / width
OBJECT_IOU, BACKGROUND_IOU = 0.7, 0.3
ANCHORS_A_PICTURE, OBJECT_SHARE = 256, 0.5
NMS_IOU = 0.7
BEFORE_NMS = {"training": 6_000, "testing": 6_000}
"""Boxes before NMS. The released code takes 12,000 in training. On a CPU their NMS alone would take
0.17 s per picture, which for AlexNet is several times as long as everything else."""


@dataclass(frozen=True)
class Proposing:
    """The settings of the proposal network that can be chosen."""

    anchor_sides: tuple[float, ...]
    """Square roots of the areas of anchors, in pixels of the scaled picture."""
    training: int
    """Largest number of proposals of a picture in training."""
    judging: int
    """Largest number of proposals of a picture in judging."""


class Anchors(nn.Module):
    """Boxes of several sides and ratios around the centre of each map pixel's receptive field.

    torchvision's own anchors lie around its first pixel, at a stride that it guesses from sizes.
    """

    def __init__(self, sides: Sequence[float], place: Place) -> None:
        """Compute the anchors of one pixel."""
        super().__init__()
        # Every side with every ratio; width times height is the square of the side.
        side = torch.tensor(sides, dtype=torch.float32)
        root = torch.tensor(RATIOS).sqrt()
        side_A = side.repeat(len(RATIOS))
        root_A = root.repeat_interleave(len(sides))
        width_A = side_A / root_A
        height_A = side_A * root_A
        half_A2 = torch.stack((width_A, height_A), dim=1) / 2
        around_A4 = torch.cat((-half_A2, half_A2), dim=1)
        self.around_A4 = nn.Buffer(around_A4, persistent=False)
        self._place = place

    def forward(self, _images: "ImageList", maps: list[Tensor]) -> list[Tensor]:
        """Return anchors_N4 of one map, row by row and pixel by pixel, with all A of a pixel."""
        (map_1CHW,) = maps
        height, width = map_1CHW.shape[2:]
        y_H = self._centres(height)
        x_W = self._centres(width)
        y_HW, x_HW = torch.meshgrid(y_H, x_W, indexing="ij")
        centre_HW4 = torch.stack((x_HW, y_HW, x_HW, y_HW), dim=2)
        anchors_HWA4 = centre_HW4[:, :, None] + self.around_A4
        return [anchors_HWA4.reshape(-1, 4)]

    def _centres(self, count: int) -> Tensor:
        """Return the centres of map pixels along one side; whole numbers are edges of pixels."""
        steps = torch.arange(count, device=self.around_A4.device)
        return self._place.first + 0.5 + self._place.stride * steps


def proposal_network(channels: int, place: Place, proposing: Proposing) -> "RegionProposalNetwork":
    """Return a network that reads one map of `channels`.

    Its weights are drawn from torch's global generator. In train mode it also returns its losses,
    and a different number of proposals.
    """
    from torchvision.models.detection.rpn import (  # noqa: PLC0415
        RegionProposalNetwork,
        RPNHead,
    )

    anchors = Anchors(proposing.anchor_sides, place)
    anchors_per_pixel = len(proposing.anchor_sides) * len(RATIOS)
    return RegionProposalNetwork(
        anchors,  # pyright: ignore[reportArgumentType]  not their class
        RPNHead(channels, anchors_per_pixel),
        OBJECT_IOU,
        BACKGROUND_IOU,
        ANCHORS_A_PICTURE,
        OBJECT_SHARE,
        BEFORE_NMS,
        {"training": proposing.training, "testing": proposing.judging},
        NMS_IOU,
    )


def propose(
    rpn: "RegionProposalNetwork",
    map_1CHW: Tensor,
    size: tuple[int, int],
    *,
    learn_N4: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return proposals, best first and without gradients, and the loss, 0 if `learn_N4` is None.

    Args:
        rpn: see `proposal_network`.
        map_1CHW: map of one picture.
        size: height and width of the picture, pixels.
        learn_N4: boxes of its objects to learn from; None to propose only.
    """
    from torchvision.models.detection.image_list import ImageList  # noqa: PLC0415

    rpn.train(learn_N4 is not None)
    images = ImageList(map_1CHW, [size])
    targets = None if learn_N4 is None else [{"boxes": learn_N4}]
    # Compute in float32: bfloat16 would move the edges of a box by pixels.
    maps = {"map": map_1CHW.float()}
    (proposals_N4,), losses = rpn(images, maps, targets)
    # Without targets there are no losses, whose sum is 0.
    zero = proposals_N4.new_zeros(())
    loss = torch.stack([zero, *losses.values()]).sum()
    return proposals_N4, loss
