"""Weigh the channels of a colour image as a Sobel network does. Suffixes: H height, W width.

The first step of such a network is a weighted sum of the channels, plus a constant. Crops, resizing
and flips commute with that sum, because all of them are linear, so it can be computed once for each
image, when it is packed. The network then reads one channel instead of three.
"""

from collections.abc import Sequence

import numpy as np

from deepcluster_core.data.deep_values import Pixels

WHOLE = 1 << 16
"""What the weights add up to.

As integers they are exact in manifests and keys, and give the same bytes on every processor. They
differ from the true weights by less than 1 / 65,536, and the sum by less than 0.01 of 255.
"""
HALF = WHOLE // 2

GreyWeights = tuple[int, int, int]
"""Weights of red, green and blue, in 65,536ths."""


def grey_weights(std: Sequence[float]) -> GreyWeights:
    """Return the weights of the channels in a Sobel network that divides them by `std`.

    Only the ratios of the deviations matter. The means that the network subtracts do not: they add
    a constant, which the network adds to a grey image, too.

    Args:
        std: three values above 0.
    """
    inverse = [1 / deviation for deviation in std]
    total = sum(inverse)
    weights = [round(WHOLE * one / total) for one in inverse]
    # What rounding adds or takes goes to the largest, where it matters least: white stays white.
    weights[weights.index(max(weights))] += WHOLE - sum(weights)
    red, green, blue = weights
    return red, green, blue


def to_grey(pixels_HW3: Pixels, weights: GreyWeights) -> Pixels:
    """Return the weighted sum of the channels as an image (H, W, 1), rounded to whole values."""
    sum_HW = np.full(pixels_HW3.shape[:2], HALF, np.uint32)  # a half, so that the shift rounds
    for channel, weight in enumerate(weights):
        sum_HW += pixels_HW3[..., channel] * np.uint32(weight)
    return (sum_HW >> 16).astype(np.uint8)[..., np.newaxis]
