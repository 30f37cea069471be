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


def grid_regions(
    height: int,
    width: int,
    *,
    levels: int,
    overlap: float,
) -> list[Region]:
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
    aspect = max(height, width) / shorter
    num_more = _along_longer(aspect, overlap) - 1
    more_rows = num_more if height > width else 0
    more_columns = num_more if width > height else 0
    regions: list[Region] = []
    for level in range(1, levels + 1):
        side = max(1, 2 * shorter // (level + 1))
        lefts = _starts(width, side, level + more_columns)
        for top in _starts(height, side, level + more_rows):
            regions += [Region(top, left, side) for left in lefts]
    return regions


def _along_longer(aspect: float, overlap: float) -> int:
    """Return m for a map whose longer side is `aspect` times the shorter one."""
    if aspect == 1:
        return 1

    def error(count: int) -> float:
        # The distance between the starts of regions of side 1, spread over a length of `aspect`.
        distance = (aspect - 1) / (count - 1)
        return abs(1 - distance - overlap)

    # More regions than this would overlap more than asked for.
    enough = 2 + math.ceil((aspect - 1) / (1 - overlap))
    return min(range(2, enough + 1), key=error)


def _starts(length: int, side: int, count: int) -> list[int]:
    """Return the starts of `count` regions that are spread evenly over a length."""
    last = length - side
    # The first region starts at 0 and the last one ends with the map; a single one starts at 0.
    num_gaps = max(1, count - 1)
    return [number * last // num_gaps for number in range(count)]
