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
"""Frequencies per axis. Filters have 3 to 11 pixels per axis; with as few frequencies, a quarter of
the sampling rate could not be distinguished from less."""


def first_filters(network: Network) -> Weights:
    """Return a copy of weight_FCHW of the backbone's first convolution.

    Raises:
        ConfigError: the backbone has no convolution.
    """
    for module in network.backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().cpu().float().numpy().copy()
    raise ConfigError("this network has no convolution, so there are no filters to show.")


def through_sobel(weight_FCHW: Weights) -> Weights:
    """Return the filters that combine Sobel's with those behind it, (F, 1, H + 2, W + 2).

    Both are linear, so a single filter on the grey image has the effect of the two in sequence,
    except at the border.

    Args:
        weight_FCHW: filters that read the two maps of `Sobel`, so C is 2.
    """
    impulse_11HW = torch.zeros(1, 1, 5, 5)
    impulse_11HW[..., 2, 2] = 1
    # The response to an impulse is the filter rotated by 180 degrees, so rotate it back. Two
    # cross-correlations in sequence combine by full convolution, which is what conv_transpose2d
    # computes.
    response_12HW = Sobel((0.0,), (1.0,))(impulse_11HW)
    middle_12HW = response_12HW[..., 1:4, 1:4]
    sobel_12HW = middle_12HW.flip(-1, -2)
    sobel_21HW = sobel_12HW.transpose(0, 1)
    combined_F1HW = nn.functional.conv_transpose2d(torch.from_numpy(weight_FCHW), sobel_21HW)
    return combined_F1HW.numpy()


def norms(weight_FCHW: Weights) -> NDArray[np.float64]:
    """Return the L2 norm of each filter. A filter far below the others has decayed unlearnt."""
    squares_FCHW = np.square(weight_FCHW, dtype=np.float64)
    return np.sqrt(squares_FCHW.sum(axis=(1, 2, 3)))


def high_frequency(weight_FCHW: Weights) -> NDArray[np.float64]:
    """Return the fraction, 0 to 1, of each filter's energy above half the Nyquist frequency.

    This limit is a quarter of a cycle per pixel, in any direction. White noise has
    1 - pi / 16 = 0.80; filters that have learnt edges or colours have less. The fraction of a zero
    filter is 0.
    """
    exact_FCHW = weight_FCHW.astype(np.float64)
    spectrum_FCYX = np.fft.fft2(exact_FCHW, s=(SPECTRUM, SPECTRUM))
    energy_FYX = np.square(np.abs(spectrum_FCYX)).sum(axis=1)
    frequency_X = np.fft.fftfreq(SPECTRUM)  # cycles per pixel; the Nyquist frequency is 0.5
    frequency_Y1 = frequency_X[:, None]
    is_high_YX = np.hypot(frequency_Y1, frequency_X) > 0.25
    high_F = energy_FYX[:, is_high_YX].sum(axis=1)
    total_F = energy_FYX.sum(axis=(1, 2))
    return high_F / np.where(total_F > 0, total_F, 1)


def cosines(weight_FCHW: Weights, other_FCHW: Weights) -> NDArray[np.float64]:
    """Return the cosine, -1 to 1, between the filters of equal number in both sets.

    The cosine with a zero filter is 0.
    """
    products_FCHW = np.multiply(weight_FCHW, other_FCHW, dtype=np.float64)
    product_F = products_FCHW.sum(axis=(1, 2, 3))
    length_F = norms(weight_FCHW) * norms(other_FCHW)
    return product_F / np.where(length_F > 0, length_F, 1)


def draw_filters(weight_FCHW: Weights, *, sobel: bool, scale: Scale) -> Pixels:
    """Draw all filters with their numbers; zero is mid grey.

    The paper does not describe how its figure 3 shows filters that read two maps. Here a filter
    behind Sobel gets three tiles: its weights on the horizontal and on the vertical contrast, and
    its combined effect on the grey image, in which edge detectors look like edges. A filter that
    reads 3 channels gets one tile in colour. Any other filter gets a grey tile per channel.

    Args:
        weight_FCHW: filters, see `first_filters`.
        sobel: whether the filters read the maps of `Sobel`.
        scale: which weight is drawn in the brightest or darkest tone. each: the greatest of its
            filter, so that dead filters look as strong as others. all: the greatest of all filters.
    """
    tiles_by_filter = _tiles(weight_FCHW, scale)
    if sobel:
        on_grey = _tiles(through_sobel(weight_FCHW), scale)
        for tiles, grey in zip(tiles_by_filter, on_grey, strict=True):
            tiles.extend(grey)

    smaller_side = min(weight_FCHW.shape[2:])
    factor = math.ceil(LEAST_TILE_PX / smaller_side)
    filters: list[Pixels] = []
    for number, tiles in enumerate(tiles_by_filter):
        row = _in_a_row(tiles, factor)
        filters.append(captioned(row, str(number)))
    height, width = filters[0].shape[:2]
    # With this number of columns the picture is about square.
    square_columns = math.sqrt(len(filters) * height / width)
    columns = max(1, round(square_columns))
    return grid(filters, columns=columns, gap_px=3 * GAP_PX)


def _in_a_row(tiles: Sequence[Pixels], factor: int) -> Pixels:
    large_tiles = [framed(enlarged(tile, factor)) for tile in tiles]
    return grid(large_tiles, columns=len(tiles))


def _tiles(weight_FCHW: Weights, scale: Scale) -> list[list[Pixels]]:
    """Return the tiles (H, W, 3) of each filter: one in colour, or a grey one per channel."""
    extent_F = np.abs(weight_FCHW).max(axis=(1, 2, 3))
    if scale == "all":
        extent_F[:] = extent_F.max()
    extent_F[extent_F == 0] = 1  # a filter of zeros is all mid grey
    share_FCHW = weight_FCHW / extent_F[:, None, None, None]
    tone_FCHW = 127.5 + 127.5 * share_FCHW
    pixels_FCHW = np.rint(tone_FCHW).astype(np.uint8)
    pixels_FHWC = pixels_FCHW.transpose(0, 2, 3, 1)
    num_channels = pixels_FHWC.shape[3]
    if num_channels == 3:
        return [[tile] for tile in pixels_FHWC]
    tiles_by_filter: list[list[Pixels]] = []
    for pixels_HWC in pixels_FHWC:
        channels = np.split(pixels_HWC, num_channels, axis=2)
        tiles_by_filter.append([in_colour(grey_HW1) for grey_HW1 in channels])
    return tiles_by_filter
