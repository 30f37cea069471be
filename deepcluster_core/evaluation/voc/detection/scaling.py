"""Pictures as large as a detector reads them, and boxes that move with them.

Suffixes: H rows, W columns, C channels of a picture, N boxes: left, top, right, bottom in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from deepcluster_core.data.resize import Pixels, resize


@dataclass(frozen=True)
class Scale:
    """How large pictures become; smaller ones are enlarged."""

    shorter_side: int
    """Pixels."""
    longer_side: int
    """Pixels, at most: then the shorter side is less."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of a picture that had these."""
        factor = self.shorter_side / min(height, width)
        if round(factor * max(height, width)) > self.longer_side:
            factor = self.longer_side / max(height, width)
        return max(1, round(factor * height)), max(1, round(factor * width))


@dataclass(frozen=True)
class Frame:
    """What became of a picture's coordinates."""

    original: tuple[int, int]
    """Height and width."""
    size: tuple[int, int]
    """The same, scaled."""
    flipped: bool

    def enter(self, box_N4: Tensor) -> Tensor:
        """Return boxes of the original picture where they are in the scaled one."""
        scaled_N4 = box_N4 * self._factor(box_N4)
        return self._mirrored(scaled_N4) if self.flipped else scaled_N4

    def leave(self, box_N4: Tensor) -> Tensor:
        """Return boxes of the scaled picture where they are in the original one."""
        upright_N4 = self._mirrored(box_N4) if self.flipped else box_N4
        return upright_N4 / self._factor(box_N4)

    def _factor(self, box_N4: Tensor) -> Tensor:
        down, across = (now / was for now, was in zip(self.size, self.original, strict=True))
        return box_N4.new_tensor((across, down, across, down))

    def _mirrored(self, box_N4: Tensor) -> Tensor:
        left_N, top_N, right_N, bottom_N = box_N4.unbind(dim=1)
        width = self.size[1]
        return torch.stack((width - right_N, top_N, width - left_N, bottom_N), dim=1)


def clipped(box_N4: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the parts of boxes in a picture of this height and width; empty ones are left out."""
    inside_N4 = clip_boxes_to_image(box_N4, size)
    is_box_N = (inside_N4[:, 2:] > inside_N4[:, :2]).all(dim=1)
    return inside_N4[is_box_N]


def scaled(picture_HWC: Pixels, scale: Scale) -> Pixels:
    """Return a picture in its scaled size."""
    return resize(picture_HWC, scale.size(*picture_HWC.shape[:2]))
