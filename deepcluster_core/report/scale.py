"""The axes of the report's charts: from values to places, and the values that have ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from deepcluster_core.figures import LogLocator, MaxNLocator

LOGARITHMIC_FROM = 50
"""Ratio of the largest to the smallest value from which sizes are drawn on a logarithmic axis."""
MOST_POWERS = 100
"""More powers of ten than any axis has: the locator leaves none out by itself."""


@dataclass(frozen=True)
class Scale:
    """One axis."""

    low: float
    high: float
    start: float
    """Place of `low`, in units of the drawing."""
    end: float
    """Place of `high`."""
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value, in units of the drawing to one decimal."""
        low, high = self._measure(self.low), self._measure(self.high)
        part = (self._measure(value) - low) / (high - low) if high > low else 0.5
        return round(self.start + part * (self.end - self.start), 1)

    def ticks(self, at_most: int, *, whole: bool = False) -> list[float]:
        """Return round values within the axis: 1, 2 or 5 times a power of ten apart.

        Args:
            at_most: how many steps between ticks, about.
            whole: integers only.
        """
        if self.low == self.high:
            return [self.low]
        if self.logarithmic:
            return self._logarithmic_ticks(at_most)
        steps = (1, 2, 5, 10)
        locator = MaxNLocator(at_most, steps=steps, integer=whole, min_n_ticks=1)
        return self._within(locator)

    def _measure(self, value: float) -> float:
        return math.log(max(value, self.low)) if self.logarithmic else value

    def _logarithmic_ticks(self, at_most: int) -> list[float]:
        ticks: list[float] = []
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = self._within(LogLocator(subs=digits, numticks=MOST_POWERS))
            if len(ticks) <= at_most:
                return ticks
        every = math.ceil(len(ticks) / at_most)
        return ticks[::every]

    def _within(self, locator: LogLocator | MaxNLocator) -> list[float]:
        """Return the ticks that a locator finds, without those beyond the ends of the axis."""
        rounding = 1e-9 * (self.high - self.low)
        found = (float(tick) for tick in locator.tick_values(self.low, self.high))
        low, high = self.low - rounding, self.high + rounding
        return [round(tick, 12) for tick in found if low <= tick <= high]


def upwards(values: Iterable[float], *, start: float, end: float, zero: bool = True) -> Scale:
    """Return an axis that holds these values.

    Args:
        values: finite.
        start: place of the lower end.
        end: place of the upper one.
        zero: begin at 0. If False, the axis is logarithmic when the values are far apart.
    """
    found = [*values] or [0.0, 1.0]
    low, high = min(found), max(found)
    if not zero and low > 0 and high >= LOGARITHMIC_FROM * low:
        return Scale(low, high, start, end, logarithmic=True)
    return Scale(min(low, 0.0), max(high, 0.0) or 1.0, start, end)
