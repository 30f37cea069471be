"""Vertical flips and quarter turns of views, exactly and in place.

Suffixes: B views, S side of the view in pixels, C channels, R random numbers of a view,
X rows of a band.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from deepcluster_core.data.deep_values import Pixels
from deepcluster_core.data.views import SERIAL

ORIENTATION_DRAWS = 4
"""Random numbers for a view: vertical flip, turn, number of quarter turns, and 1 unused."""


def orient(
    views_BSSC: Pixels, draws_BR: NDArray[np.float64], *, flip_vertical: float, turn: float
) -> None:
    """Flip and turn some of the views in place.

    Args:
        views_BSSC: square views.
        draws_BR: random numbers 0 to 1, (B, 4).
        flip_vertical: probability of a vertical flip, 0 to 1.
        turn: probability of a turn by 90, 180 or 270 degrees, which are equally likely.
    """
    for view_SSC, draws_R in zip(views_BSSC, draws_BR, strict=True):
        if draws_R[0] < flip_vertical:
            view_SSC[:] = view_SSC[::-1].copy()
        if draws_R[1] < turn:
            turn_quarters(view_SSC, 1 + int(3 * draws_R[2]))


def turn_quarters(view_SSC: Pixels, quarters: int) -> None:
    """Turn a view in place by 1 to 3 quarters, anticlockwise as `np.rot90`.

    This is done by torch in bands, for the reasons in `views._mirror`.
    """
    side = len(view_SSC)
    copied_SSC = torch.from_numpy(view_SSC.copy())
    turned_SSC = torch.from_numpy(view_SSC)
    rows = max(1, SERIAL // view_SSC[0].size)
    for top in range(0, side, rows):
        bottom = min(top + rows, side)
        mirrored = slice(side - bottom, side - top)
        if quarters == 1:
            band_XSC = copied_SSC.transpose(0, 1)[mirrored].flip(0)
        elif quarters == 2:
            band_XSC = copied_SSC[mirrored].flip(0, 1)
        else:
            band_XSC = copied_SSC.transpose(0, 1)[top:bottom].flip(1)
        turned_SSC[top:bottom].copy_(band_XSC)
