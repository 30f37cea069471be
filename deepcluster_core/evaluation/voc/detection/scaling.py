"""Scaling of pictures to the size that a detector reads, and of their boxes.

Suffixes: H rows, W columns, C channels of a picture, N boxes: left, top, right, bottom in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepcluster_core.data.resize import Pixels, resize
from deepcluster_core.evaluation.voc.detection.boxes import clipped_to


@dataclass(frozen=True)
class Scale:
    """The size to which pictures are scaled; smaller ones are enlarged."""

    shorter_side: int
    """Length of the shorter side, pixels. It becomes less if the longer side would be too long."""
    longer_side: int
    """Largest length of the longer side, pixels."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the scaled height and width of a picture of this height and width."""
        longer = max(height, width)
        factor = self.shorter_side / min(height, width)
        # A panorama would become too large for the memory of a device.
        if round(factor * longer) > self.longer_side:
            factor = self.longer_side / longer
        # A very long and narrow picture keeps at least one pixel across.
        scaled_height = max(1, round(factor * height))
        scaled_width = max(1, round(factor * width))
        return scaled_height, scaled_width


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
        return self._mirrored(scaled_N4)

    def leave(self, box_N4: Tensor) -> Tensor:
        """Transform boxes from the scaled to the original picture."""
        # Mirroring is its own inverse.
        return self._mirrored(box_N4) / self._factor(box_N4)

    def _factor(self, box_N4: Tensor) -> Tensor:
        """Return the factors of left, top, right and bottom, on the device of the boxes."""
        original_height, original_width = self.original
        height, width = self.size
        down = height / original_height
        across = width / original_width
        return box_N4.new_tensor((across, down, across, down))

    def _mirrored(self, box_N4: Tensor) -> Tensor:
        """Return boxes of the scaled picture, mirrored if the picture is."""
        if not self.flipped:
            return box_N4
        left_N, top_N, right_N, bottom_N = box_N4.unbind(dim=1)
        _, width = self.size
        new_left_N = width - right_N
        new_right_N = width - left_N
        return torch.stack((new_left_N, top_N, new_right_N, bottom_N), dim=1)


def clipped(box_N4: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes to a picture of this height and width; boxes that become empty are left out."""
    inside_N4 = clipped_to(box_N4, size)
    low_N2, high_N2 = inside_N4.split(2, dim=1)
    is_box_N = (high_N2 > low_N2).all(dim=1)
    return inside_N4[is_box_N]


def scaled(picture_HWC: Pixels, scale: Scale) -> Pixels:
    """Return a picture, scaled."""
    height, width = picture_HWC.shape[:2]
    return resize(picture_HWC, scale.size(height, width))
