"""The filters of a network's first convolution, as numbers and as a picture (figure 3).

Suffixes: F filters, C channels that they read, H rows, W columns, Y and X frequencies.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.mosaic import (
    GAP_PX,
    Pixels,
    captioned,
    enlarged,
    framed,
    grid,
    in_colour,
)
from deepcluster_core.models.network import Network
from deepcluster_core.models.sobel import Sobel

Weights = NDArray[np.float32]
Scale = Literal["each", "all"]

LEAST_TILE_PX = 32
SPECTRUM = 64
"""Frequencies an axis. Filters of 3 to 11 pixels are too small for their own 3 to 11 to tell a
quarter of the sampling rate from less."""


def first_filters(network: Network) -> Weights:
    """Return a copy of weight_FCHW of the first convolution that the backbone has.

    Raises:
        ConfigError: it has none.
    """
    for module in network.backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().cpu().float().numpy().copy()
    raise ConfigError("this network has no convolution, so there are no filters to show.")


def through_sobel(weight_FCHW: Weights) -> Weights:
    """Return (F, 1, H + 2, W + 2): what filters behind the Sobel filter do to the grey image.

    Both are linear, so one filter does what the two after each other do, but for the border.

    Args:
        weight_FCHW: C is 2, the maps of `Sobel`.
    """
    impulse_11HW = torch.zeros(1, 1, 5, 5)
    impulse_11HW[..., 2, 2] = 1
    # An impulse comes out as the filter turned by 180 degrees, which is what a product of two
    # cross-correlations wants: the full convolution of the two.
    sobel_12HW = Sobel((0.0,), (1.0,))(impulse_11HW)[..., 1:4, 1:4].flip(-1, -2)
    together_F1HW = nn.functional.conv_transpose2d(
        torch.from_numpy(weight_FCHW), sobel_12HW.transpose(0, 1)
    )
    return together_F1HW.numpy()


def norms(weight_FCHW: Weights) -> NDArray[np.float64]:
    """Return the L2 norm of each filter. One near 0 beside the others was decayed, not learnt."""
    return np.sqrt(np.square(weight_FCHW, dtype=np.float64).sum(axis=(1, 2, 3)))


def high_frequency(weight_FCHW: Weights) -> NDArray[np.float64]:
    """Return the share, 0 to 1, of each filter's energy above half the Nyquist frequency.

    That is beyond a quarter of a cycle a pixel, in any direction. White noise has
    1 - pi / 16 = 0.80; filters that have learnt edges or colours have less. Of a filter that is
    0 everywhere it is 0.
    """
    spectrum_FCYX = np.fft.fft2(weight_FCHW.astype(np.float64), s=(SPECTRUM, SPECTRUM))
    energy_FYX = np.square(np.abs(spectrum_FCYX)).sum(axis=1)
    cycles = np.fft.fftfreq(SPECTRUM)  # a pixel: the Nyquist frequency is 0.5
    is_high_YX = np.hypot(cycles[:, None], cycles) > 0.25
    total_F = energy_FYX.sum(axis=(1, 2))
    return energy_FYX[:, is_high_YX].sum(axis=1) / np.where(total_F > 0, total_F, 1)


def cosines(weight_FCHW: Weights, other_FCHW: Weights) -> NDArray[np.float64]:
    """Return the cosine, -1 to 1, of each filter with the other's of the same number.

    Of a filter that is 0 everywhere it is 0.
    """
    product_F = np.multiply(weight_FCHW, other_FCHW, dtype=np.float64).sum(axis=(1, 2, 3))
    length_F = norms(weight_FCHW) * norms(other_FCHW)
    return product_F / np.where(length_F > 0, length_F, 1)


def draw_filters(weight_FCHW: Weights, *, sobel: bool, scale: Scale) -> Pixels:
    """Return a picture of all filters with their numbers; zero is the mid grey.

    The paper does not say how its figure 3 shows filters that read two maps. Here a filter behind
    Sobel is three tiles: its weights on the horizontal and on the vertical contrast, and what all
    of it does to the grey image, in which edge detectors look like edges. A filter that reads 3
    channels is one tile in colour; of any other number, a grey tile a channel.

    Args:
        weight_FCHW: of `first_filters`.
        sobel: the maps of `Sobel` are what they read.
        scale: the brightest or darkest value is the greatest of `each` filter for itself, in
            which dead ones look as strong as any other, or of `all` of them.
    """
    tiles = _tiles(weight_FCHW, scale)
    if sobel:
        on_grey = _tiles(through_sobel(weight_FCHW), scale)
        tiles = [[*maps, *grey] for maps, grey in zip(tiles, on_grey, strict=True)]
    factor = math.ceil(LEAST_TILE_PX / min(weight_FCHW.shape[2:]))
    filters = [
        captioned(_in_a_row(of_filter, factor), str(number))
        for number, of_filter in enumerate(tiles)
    ]
    height, width = filters[0].shape[:2]
    columns = max(1, round(math.sqrt(len(filters) * height / width)))
    return grid(filters, columns=columns, gap_px=3 * GAP_PX)


def _in_a_row(tiles: Sequence[Pixels], factor: int) -> Pixels:
    return grid([framed(enlarged(tile, factor)) for tile in tiles], columns=len(tiles))


def _tiles(weight_FCHW: Weights, scale: Scale) -> list[list[Pixels]]:
    """Return the tiles (H, W, 3) of each filter: one in colour, or a grey one a channel."""
    extent_F = np.abs(weight_FCHW).max(axis=(1, 2, 3))
    if scale == "all":
        extent_F[:] = extent_F.max()
    extent_F[extent_F == 0] = 1
    share_FCHW = weight_FCHW / extent_F[:, None, None, None]
    pixels_FHWC = np.rint(127.5 + 127.5 * share_FCHW).astype(np.uint8).transpose(0, 2, 3, 1)
    if pixels_FHWC.shape[3] == 3:
        return [[tile] for tile in pixels_FHWC]
    return [[in_colour(grey) for grey in np.split(p, p.shape[2], axis=2)] for p in pixels_FHWC]
