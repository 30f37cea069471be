"""Positions of the scores of a network that slides over a picture.

Rows and columns are treated alike, so this module handles one axis at a time. Positions are in
pixels, and 0 is the centre of the first pixel. Suffixes: P pixels, N scores along an axis.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepcluster_core.models.dense import Dense
from deepcluster_core.models.network import Network


@dataclass(frozen=True)
class Axis:
    """The pixels of a picture along one of its sides, and the scores along it."""

    pixels: int
    """Number of pixels P."""
    scores: int
    """Number of scores N."""
    stride: int
    """Distance from a score to the next, pixels."""
    first: float
    """Position of the first score."""
    before: int
    """Pixels of padding before the picture."""
    after: int
    """Pixels of padding behind the picture, as many as the last score reads."""

    def interpolation(self) -> Tensor:
        """Return float32 weight_PN, the matrix that interpolates N scores to P pixels.

        Interpolation is linear between two scores. Beyond the first and the last score, it is
        constant.
        """
        # The positions of the pixels in units of the distance between scores.
        pixel_P = torch.arange(self.pixels, dtype=torch.float64)
        place_P = (pixel_P - self.first) / self.stride
        place_P1 = place_P.clamp(0, self.scores - 1)[:, None]
        distance_PN = (place_P1 - torch.arange(self.scores)).abs()
        weight_PN = 1 - distance_PN
        return weight_PN.clamp(min=0).float()


@dataclass(frozen=True)
class Fields:
    """The squares of pixels from which scores are computed, at distances of `stride`."""

    stride: int
    center: float
    """Centre of the first square without padding: 111 for AlexNet, 111.5 for VGG-16. Its first
    pixel has position 0, or a negative position if convolutions pad."""

    def axis(self, pixels: int, *, padding: int) -> Axis:
        """Return the positions of scores along a side of a picture.

        Args:
            pixels: length of the side.
            padding: pixels before the picture. There are at least as many behind it, enough for the
                last score to lie as near to the end as the first to the beginning, or nearer.
        """
        first = self.center - padding
        # The last score lies at least as near to the last pixel as the first to pixel 0.
        least_distance = pixels - 1 - 2 * first
        num_gaps = math.ceil(least_distance / self.stride)
        num_scores = max(1, num_gaps + 1)
        # The width that N fields cover together.
        field_width = round(2 * self.center) + 1
        width = field_width + (num_scores - 1) * self.stride
        return Axis(
            pixels=pixels,
            scores=num_scores,
            stride=self.stride,
            first=first,
            before=padding,
            after=width - padding - pixels,
        )


def fields_of(network: Network) -> Fields:
    """Return the fields of a network's last linear layers.

    Raises:
        ConfigError: the network cannot be split into convolutions and linear layers, see `Dense`.
    """
    dense = Dense(network)
    place = dense.place(pooled=True)
    # fc6 reads a window of the map, whose centre lies half a window behind its first pixel.
    window_extent = place.stride * (dense.window - 1)
    center = place.first + window_extent / 2
    return Fields(place.stride, center)
