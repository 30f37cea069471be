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
    """Return the regions of a map: 14 of a square one, 20 of one of 4:3, for 3 levels and 0.4.

    At level l, counted from 1, their side is 2 · shorter / (l + 1), and l of them lie along the
    shorter side of the map, l + m - 1 along the longer one. m, those of level 1, is 1 on a square
    map and otherwise the number, 2 or more, with which neighbours overlap most nearly by `overlap`.

    Args:
        height: of the map, at least 1.
        width: likewise.
        levels: number of grids.
        overlap: share of a region's side, 0 to 1, 1 excluded.
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
    """Return m, for a map that is `aspect` times as long as wide."""
    if aspect == 1:
        return 1
    enough = 2 + math.ceil((aspect - 1) / (1 - overlap))
    # m regions of side 1 over a length of `aspect` begin (aspect - 1) / (m - 1) apart.
    return min(range(2, enough + 1), key=lambda m: abs(1 - (aspect - 1) / (m - 1) - overlap))


def _starts(length: int, side: int, count: int) -> list[int]:
    """Return where `count` regions begin that are spread evenly over a length."""
    return [number * (length - side) // max(1, count - 1) for number in range(count)]
