"""The square regions of R-MAC: a coarse grid and finer ones, side by side with some overlap.

Source: Tolias, Sicre and Jégou 2016 (arXiv:1511.05879), section 4.1.
"""

import math
from typing import NamedTuple


class Region(NamedTuple):
    """A square of a map, in its rows and columns."""

    top: int
    left: int
    side: int


def grid_regions(height: int, width: int, *, levels: int, overlap: float) -> list[Region]:
    """Return the regions of a map.

    At level l, counted from 1, the side of a region is 2 · shorter / (l + 1). There are l regions
    along the shorter side of the map, and l + m - 1 along the longer side. The number m is 1 for a
    square map. For other maps it is the number, 2 or more, whose regions come closest to `overlap`
    at level 1. With 3 levels and an overlap of 0.4, a square map has 14 regions and a 4:3 map 20.

    Args:
        height: height of the map, at least 1.
        width: width of the map, at least 1.
        levels: number of grids.
        overlap: overlap of neighbouring regions as a fraction of their side, 0 to less than 1.
    """
    shorter = min(height, width)
    more = _along_longer(max(height, width) / shorter, overlap) - 1
    regions: list[Region] = []
    for level in range(1, levels + 1):
        side = max(1, 2 * shorter // (level + 1))
        tops = _starts(height, side, level + (more if height > width else 0))
        lefts = _starts(width, side, level + (more if width > height else 0))
        regions += [Region(top, left, side) for top in tops for left in lefts]
    return regions


def _along_longer(aspect: float, overlap: float) -> int:
    """Return m for a map whose longer side is `aspect` times the shorter one."""
    if aspect == 1:
        return 1
    enough = 2 + math.ceil((aspect - 1) / (1 - overlap))
    # The starts of m regions of side 1, spread over a length of `aspect`, lie
    # (aspect - 1) / (m - 1) apart.
    return min(range(2, enough + 1), key=lambda m: abs(1 - (aspect - 1) / (m - 1) - overlap))


def _starts(length: int, side: int, count: int) -> list[int]:
    """Return the starts of `count` regions that are spread evenly over a length."""
    return [number * (length - side) // max(1, count - 1) for number in range(count)]
