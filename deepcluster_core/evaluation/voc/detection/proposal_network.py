"""Proposals where none were made before: torchvision's region proposal network on our maps.

Suffixes: C channels, H rows, W columns of a map, A anchors of a pixel, N boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from deepcluster_core.models.dense import Place

# Ren et al. 2015 (Faster R-CNN), sections 3.1 and 3.3, and its released code.
RATIOS = (0.5, 1.0, 2.0)  # height / width
OBJECT_IOU, BACKGROUND_IOU = 0.7, 0.3
ANCHORS_A_PICTURE, OBJECT_SHARE = 256, 0.5
NMS_IOU = 0.7
BEFORE_NMS = {"training": 6_000, "testing": 6_000}
"""12,000 in the released code's training. On a CPU their NMS alone would take 0.17 s of a picture,
several times what all else does for AlexNet."""


@dataclass(frozen=True)
class Proposing:
    """What may differ."""

    anchor_sides: tuple[float, ...]
    """Of anchors, roots of their areas, pixels of the scaled picture."""
    training: int
    """Proposals of a picture to learn from, at most."""
    judging: int
    """To look for objects in."""


class Anchors(nn.Module):
    """Boxes of several sides and ratios around the centre of what each pixel of a map sees.

    torchvision's own lie around its first pixel, at a stride that it guesses from sizes.
    """

    def __init__(self, sides: Sequence[float], place: Place) -> None:
        """Make those of one pixel."""
        super().__init__()
        side_A = torch.tensor(sides, dtype=torch.float32).repeat(len(RATIOS))
        root_A = torch.tensor(RATIOS).sqrt().repeat_interleave(len(sides))
        half_A2 = torch.stack((side_A / root_A, side_A * root_A), dim=1) / 2
        self.around_A4 = nn.Buffer(torch.cat((-half_A2, half_A2), dim=1), persistent=False)
        self._place = place

    def forward(self, _images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        """Return anchors_N4 of one map, pixel by pixel in the order of rows, all A of one first."""
        (map_1CHW,) = maps
        height, width = map_1CHW.shape[2:]
        y_H, x_W = (self._centres(count) for count in (height, width))
        y_HW, x_HW = torch.meshgrid(y_H, x_W, indexing="ij")
        centre_HW14 = torch.stack((x_HW, y_HW, x_HW, y_HW), dim=2)[:, :, None]
        return [(centre_HW14 + self.around_A4).reshape(-1, 4)]

    def _centres(self, count: int) -> Tensor:
        steps = torch.arange(count, device=self.around_A4.device)
        return self._place.first + 0.5 + self._place.stride * steps  # edges lie at whole numbers


def proposal_network(channels: int, place: Place, proposing: Proposing) -> RegionProposalNetwork:
    """Return a network that reads one map of `channels`; draws from torch's global generator.

    In train mode it returns its losses as well, and another number of proposals.
    """
    return RegionProposalNetwork(
        Anchors(proposing.anchor_sides, place),  # pyright: ignore[reportArgumentType]  likewise
        RPNHead(channels, len(proposing.anchor_sides) * len(RATIOS)),
        OBJECT_IOU,
        BACKGROUND_IOU,
        ANCHORS_A_PICTURE,
        OBJECT_SHARE,
        BEFORE_NMS,
        {"training": proposing.training, "testing": proposing.judging},
        NMS_IOU,
    )


def propose(
    rpn: RegionProposalNetwork,
    map_1CHW: Tensor,
    size: tuple[int, int],
    *,
    learn_N4: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return proposals, best first, without gradients, and the loss: 0 if nothing is to be learnt.

    Args:
        rpn: see `proposal_network`.
        map_1CHW: of one picture.
        size: of the picture: height and width, pixels.
        learn_N4: boxes of its objects; None to propose only.
    """
    rpn.train(learn_N4 is not None)
    images = ImageList(map_1CHW, [size])
    targets = None if learn_N4 is None else [{"boxes": learn_N4}]
    # In float32: bfloat16 would move the edges of a box by pixels.
    (proposals_N4,), losses = rpn(images, {"map": map_1CHW.float()}, targets)
    return proposals_N4, torch.stack([proposals_N4.new_zeros(()), *losses.values()]).sum()
