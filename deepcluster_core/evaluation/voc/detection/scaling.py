"""Scaling of pictures to the size that a detector reads, and of their boxes.

Suffixes: H rows, W columns, C channels of a picture, N boxes: left, top, right, bottom in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from deepcluster_core.data.resize import Pixels, resize


@dataclass(frozen=True)
class Scale:
    """The size to which pictures are scaled; smaller ones are enlarged."""

    shorter_side: int
    """Length of the shorter side, pixels. It becomes less if the longer side would be too long."""
    longer_side: int
    """Largest length of the longer side, pixels."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the scaled height and width of a picture of this height and width."""
        factor = self.shorter_side / min(height, width)
        if round(factor * max(height, width)) > self.longer_side:
            factor = self.longer_side / max(height, width)
        return max(1, round(factor * height)), max(1, round(factor * width))


@dataclass(frozen=True)
class Frame:
    """The transformation between coordinates of an original and a scaled picture."""

    original: tuple[int, int]
    """Height and width of the original picture."""
    size: tuple[int, int]
    """Height and width of the scaled picture."""
    flipped: bool

    def enter(self, box_N4: Tensor) -> Tensor:
        """Transform boxes from the original to the scaled picture."""
        scaled_N4 = box_N4 * self._factor(box_N4)
        return self._mirrored(scaled_N4) if self.flipped else scaled_N4

    def leave(self, box_N4: Tensor) -> Tensor:
        """Transform boxes from the scaled to the original picture."""
        upright_N4 = self._mirrored(box_N4) if self.flipped else box_N4
        return upright_N4 / self._factor(box_N4)

    def _factor(self, box_N4: Tensor) -> Tensor:
        down = self.size[0] / self.original[0]
        across = self.size[1] / self.original[1]
        return box_N4.new_tensor((across, down, across, down))

    def _mirrored(self, box_N4: Tensor) -> Tensor:
        left_N, top_N, right_N, bottom_N = box_N4.unbind(dim=1)
        width = self.size[1]
        return torch.stack((width - right_N, top_N, width - left_N, bottom_N), dim=1)


def clipped(box_N4: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes to a picture of this height and width; boxes that become empty are left out."""
    inside_N4 = clip_boxes_to_image(box_N4, size)
    is_box_N = (inside_N4[:, 2:] > inside_N4[:, :2]).all(dim=1)
    return inside_N4[is_box_N]


def scaled(picture_HWC: Pixels, scale: Scale) -> Pixels:
    """Return a picture, scaled."""
    return resize(picture_HWC, scale.size(*picture_HWC.shape[:2]))
