"""Sums of rows and of their outer products, exact over all ranks.

Suffixes: N rows, D features, B block, P a panel of the features, R the features from that panel on.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from deepcluster_core.clustering.exact import Grid, exponent_of
from deepcluster_core.ranks import Ranks

PANEL = 512
"""Features whose products with themselves and all later features are computed at once.

The product is symmetric, so half of it is enough: at D = 4096 nine sixteenths are computed.
"""

UNIT_ROWS = 8192
UNIT_BYTES = 1 << 28
LEAST_UNIT_ROWS = 1024
"""Most rows in a unit, most bytes as float32, and the fewest rows however many bytes they are."""

MOST_ROWS = 1 << 27
"""Number of rows for which sums are exact if it is not known beforehand."""

ROOM = 2
"""Bits by which rows may exceed the magnitude of the first unit without a level of their own."""

LEVEL_BITS = 8
"""Bits of magnitude between two levels."""


def unit_rows(dim: int) -> int:
    """Return how many rows of `dim` features are multiplied at once and dealt to ranks at once."""
    fitting = UNIT_BYTES // (4 * max(dim, 1)) // LEAST_UNIT_ROWS * LEAST_UNIT_ROWS
    return max(LEAST_UNIT_ROWS, min(UNIT_ROWS, fitting))


@dataclass(frozen=True)
class Origin:
    """What the sums of all ranks have in common; it follows from the first unit of all rows."""

    shift_D: Tensor
    """The mean of the first unit, float64 on the CPU, exact in float32, in which it is subtracted.

    Without it, features with a mean far from zero would lose their variance to rounding.
    """
    exponent: int
    """Rows of level 0 have magnitudes of at most two to this power, after the shift."""

    @classmethod
    def of(cls, rows_BD: Tensor) -> "Origin":
        """Return the origin for the first unit."""
        shift_D = rows_BD.double().mean(dim=0).float()
        largest = _largest(rows_BD - shift_D)
        return cls(shift_D.double().cpu(), exponent_of(largest) + ROOM)


@dataclass(frozen=True)
class Sums:
    """The sums of the shifted rows of one level: sum_D, and the outer products' upper half."""

    sum_D: Tensor
    upper_DD: Tensor


class Moments:
    """The rows of this rank, summed up so that neither blocks nor ranks change a bit.

    Products of a unit are computed in float32. Each is rounded to a grid and then added in float64
    without any rounding. The grid must be known beforehand, and follows from the magnitude of the
    rows of the first unit. The products of a unit with larger rows are summed separately, on the
    coarser grid of their level; this is rare. All of it depends on the rows alone.

    Up to D rows are held as they are, because they take less memory than the products.
    """

    def __init__(self, origin: Origin, *, num_rows: int | None, device: torch.device) -> None:
        """Begin with no rows.

        Args:
            origin: the origin of all ranks.
            num_rows: number of rows of all ranks, or None if it is not known.
            device: device of the sums.
        """
        self.num_rows = 0
        self.num_bad = 0
        self.first_bad: int | None = None
        self.width = len(origin.shift_D)
        self.levels: dict[int, Sums] = {}
        self._held: list[Tensor] = []
        """All rows, shifted; empty once there are more than D rows."""
        self._origin = origin
        self._most_rows = num_rows or MOST_ROWS
        self._device = device
        self._shift_D = origin.shift_D.to(device).float()

    def add(self, rows_BD: Tensor) -> None:
        """Add one unit of float32 rows; rows that are not finite are counted, and become zeros."""
        rows_BD, bad_B = finite(rows_BD)
        if bad_B is not None:
            if self.first_bad is None:
                self.first_bad = self.num_rows + int(bad_B.nonzero()[0])
            self.num_bad += int(bad_B.sum())
        self._held.append(rows_BD - self._shift_D)
        self.num_rows += len(rows_BD)
        if self.num_rows > self.width:
            self._sum_up()

    @property
    def shift_D(self) -> Tensor:  # noqa: N802
        """The common shift, float64 on the device."""
        return self._shift_D.double()

    def held_ND(self) -> Tensor:  # noqa: N802
        """Return all rows of this rank, shifted, on the CPU, if there are at most D."""
        nothing = torch.zeros(0, self.width)
        return torch.cat([nothing, *(rows_BD.cpu() for rows_BD in self._held)])

    def total(self, levels: Iterable[int], ranks: Ranks) -> Sums:
        """Return the sums over the rows of all ranks.

        Args:
            levels: all levels that any rank has.
            ranks: the ranks.
        """
        self._sum_up()
        total = self._zeros()
        for level in sorted(levels):
            own = self.levels.get(level) or self._zeros()
            # The sums of different levels have different grids, so they are added in a fixed order.
            total.sum_D.add_(ranks.sum(own.sum_D, "sum of features"))
            total.upper_DD.add_(ranks.sum(own.upper_DD, "products of features"))
        return total

    def _sum_up(self) -> None:
        for rows_BD in self._held:
            level, sum_grid, product_grid = self._grids(_largest(rows_BD))
            sums = self.levels.setdefault(level, self._zeros())
            sums.sum_D.add_(sum_grid.round_(rows_BD.sum(dim=0, dtype=torch.float64)))
            for start in range(0, self.width, PANEL):  # only the half on and above the diagonal
                end = start + PANEL
                panel_BP = rows_BD[:, start:end]
                rest_BR = rows_BD[:, start:]
                product_PR = (panel_BP.T @ rest_BR).double()
                sums.upper_DD[start:end, start:] += product_grid.round_(product_PR)
        self._held.clear()

    def _grids(self, largest: float) -> tuple[int, Grid, Grid]:
        """Return the level of rows of this magnitude, and the grids of their sums and products."""
        excess = exponent_of(largest) - self._origin.exponent
        level = max(0, math.ceil(excess / LEVEL_BITS))
        bound = 2.0 ** (self._origin.exponent + LEVEL_BITS * level)
        # Products in float32 may exceed their bound by rounding, for which a grid has room.
        return level, Grid.of(bound, self._most_rows), Grid.of(bound**2, self._most_rows)

    def _zeros(self) -> Sums:
        sum_D = torch.zeros(self.width, dtype=torch.float64, device=self._device)
        return Sums(sum_D, sum_D.new_zeros(self.width, self.width))


def units(blocks: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield the rows as float32 on the device, regrouped into units; the last may be smaller."""
    remaining = (block_BD for block_BD in blocks if len(block_BD))
    first_BD = next(remaining, None)
    if first_BD is None:
        return
    size = unit_rows(first_BD.shape[1])
    parts: list[Tensor] = []
    missing = size
    for block_BD in chain([first_BD], remaining):
        for part_BD in _cut(block_BD, missing, size):
            parts.append(part_BD)
            missing -= len(part_BD)
            if missing == 0:
                yield _joined(parts, device)
                parts = []
                missing = size
    if parts:
        yield _joined(parts, device)


def finite(rows_BD: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return rows without those that are not finite, which become zeros, and which these are.

    If all rows are finite, they are returned as they are, with None.
    """
    if math.isfinite(_largest(rows_BD)):
        return rows_BD, None
    bad_B = ~rows_BD.isfinite().all(dim=1)
    return rows_BD.masked_fill(bad_B[:, None], 0.0), bad_B


def _cut(block_BD: Tensor, first: int, size: int) -> Iterator[Tensor]:
    """Yield a block in parts: up to `first` rows, then up to `size` rows each."""
    yield block_BD[:first]
    for start in range(first, len(block_BD), size):
        yield block_BD[start : start + size]


def _joined(parts: list[Tensor], device: torch.device) -> Tensor:
    rows_BD = parts[0] if len(parts) == 1 else torch.cat(parts)
    return rows_BD.to(device).to(torch.float32)


def _largest(rows_BD: Tensor) -> float:
    """Return the largest magnitude; infinite or NaN if a value is."""
    if rows_BD.numel() == 0:
        return 0.0
    least, most = rows_BD.aminmax()
    return float(torch.maximum(-least, most))
