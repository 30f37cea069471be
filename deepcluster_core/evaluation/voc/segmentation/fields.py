"""Where the scores of a network that slides over a picture lie on it.

Everything is symmetric in rows and columns: one axis at a time. Places are in pixels, 0 is the
centre of the first one. Suffixes: P pixels, N scores along an axis.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepcluster_core.models.dense import Dense
from deepcluster_core.models.network import Network


@dataclass(frozen=True)
class Axis:
    """Pixels of a picture along one side of it, and the scores above them."""

    pixels: int
    """P."""
    scores: int
    """N."""
    stride: int
    """Pixels from a score to the next."""
    first: float
    """Place of the first score."""
    before: int
    """Pixels of padding in front of the picture, so that this is where it lies."""
    after: int
    """Behind the picture, as many as the last score reads."""

    def interpolation(self) -> Tensor:
        """Return float32 weight_PN: by it N values become those of P pixels.

        Linear between two scores; beyond the first and the last, their values.
        """
        place_P = (torch.arange(self.pixels, dtype=torch.float64) - self.first) / self.stride
        place_P1 = place_P.clamp(0, self.scores - 1)[:, None]
        weight_PN = 1 - (place_P1 - torch.arange(self.scores)).abs()
        return weight_PN.clamp(min=0).float()


@dataclass(frozen=True)
class Fields:
    """The squares of pixels that scores are made from, one `stride` beside the other."""

    stride: int
    center: float
    """Of the first one where nothing is padded: 111 for AlexNet, 111.5 for VGG-16. Its first
    pixel has place 0 or, where convolutions pad, less."""

    def axis(self, pixels: int, *, padding: int) -> Axis:
        """Return how scores lie on a side of a picture.

        Args:
            pixels: of the side.
            padding: pixels in front of it. Behind it there are at least as many, and so many that
                the last score lies as near to its end as the first to its beginning, or nearer.
        """
        first = self.center - padding
        scores = max(1, math.ceil((pixels - 1 - 2 * first) / self.stride) + 1)
        # As wide as N fields: the last one is mirrored to the first.
        wide = round(2 * self.center) + (scores - 1) * self.stride + 1
        after = wide - padding - pixels
        return Axis(pixels, scores, self.stride, first, padding, after)


def fields_of(network: Network) -> Fields:
    """Return the fields of a network's last linear layers.

    Raises:
        ConfigError: see `Dense`.
    """
    dense = Dense(network)
    place = dense.place(pooled=True)
    return Fields(place.stride, place.first + place.stride * (dense.window - 1) / 2)
