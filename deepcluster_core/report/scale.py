"""The axes of the report's charts: positions of values, and the values that have ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from deepcluster_core.figures import LogLocator, MaxNLocator

LOGARITHMIC_FROM = 50
"""Least ratio of the largest to the smallest value for which an axis is logarithmic."""
MOST_POWERS = 100
"""A number above the powers of ten of any axis, so that the locator itself leaves none out."""


@dataclass(frozen=True)
class Scale:
    """An axis of a chart."""

    low: float
    high: float
    start: float
    """Position of `low`, in units of the drawing."""
    end: float
    """Position of `high`, in units of the drawing."""
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value in units of the drawing, rounded to one decimal."""
        low = self._measure(self.low)
        high = self._measure(self.high)
        if high > low:
            part = (self._measure(value) - low) / (high - low)
        else:
            part = 0.5  # a single value lies in the middle
        place = self.start + part * (self.end - self.start)
        return round(place, 1)

    def ticks(self, at_most: int, *, whole: bool = False) -> list[float]:
        """Return round values within the axis: 1, 2 or 5 times a power of ten apart.

        Args:
            at_most: approximate limit on the number of steps between ticks.
            whole: whether to return integers only.
        """
        if self.low == self.high:
            return [self.low]
        if self.logarithmic:
            return self._logarithmic_ticks(at_most)
        steps = (1, 2, 5, 10)
        locator = MaxNLocator(at_most, steps=steps, integer=whole, min_n_ticks=1)
        return self._within(locator)

    def _measure(self, value: float) -> float:
        """Return a number that grows evenly along the axis."""
        if not self.logarithmic:
            return value
        # Values below the axis, such as 0, lie at its end.
        return math.log(max(value, self.low))

    def _logarithmic_ticks(self, at_most: int) -> list[float]:
        ticks: list[float] = []
        for digits in ((1, 2, 5), (1, 3), (1,)):
            locator = LogLocator(subs=digits, numticks=MOST_POWERS)
            ticks = self._within(locator)
            if len(ticks) <= at_most:
                return ticks
        # Even the powers of ten alone are too many.
        powers_per_tick = math.ceil(len(ticks) / at_most)
        return ticks[::powers_per_tick]

    def _within(self, locator: LogLocator | MaxNLocator) -> list[float]:
        """Return the ticks that a locator finds, without those beyond the ends of the axis."""
        # Rounding errors must not drop a tick at an end of the axis.
        tolerance = 1e-9 * (self.high - self.low)
        low = self.low - tolerance
        high = self.high + tolerance
        ticks: list[float] = []
        for value in locator.tick_values(self.low, self.high):
            tick = float(value)
            if low <= tick <= high:
                ticks.append(round(tick, 12))
        return ticks


def upwards(
    values: Iterable[float],
    *,
    start: float,
    end: float,
    zero: bool = True,
) -> Scale:
    """Return an axis that contains these values.

    Args:
        values: finite values.
        start: position of the lower end.
        end: position of the upper end.
        zero: whether to begin at 0. If not, the axis is logarithmic if the values are far apart.
    """
    found = [*values] or [0.0, 1.0]
    low = min(found)
    high = max(found)
    is_far_apart = high >= LOGARITHMIC_FROM * low
    if not zero and low > 0 and is_far_apart:
        return Scale(low, high, start, end, logarithmic=True)
    # An axis of zeros only would have no length.
    high = max(high, 0.0) or 1.0
    return Scale(min(low, 0.0), high, start, end)
