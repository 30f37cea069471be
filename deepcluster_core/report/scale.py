"""From values to places on a chart, and the round values at which its axes have ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOGARITHMIC_FROM = 50
"""Ratio of the largest to the smallest value from which sizes are drawn on a logarithmic axis."""


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
            at_most: how many, about.
            whole: integers alone.
        """
        if self.logarithmic:
            return self._powers(at_most)
        step = max(_round_up((self.high - self.low) / at_most), 1.0 if whole else 0.0)
        if step <= 0:
            return [self.low]
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]

    def _measure(self, value: float) -> float:
        return math.log(max(value, self.low)) if self.logarithmic else value

    def _powers(self, at_most: int) -> list[float]:
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [digit * 10.0**power for power in range(low, high + 1) for digit in digits]
            values = [value for value in values if self.low <= value <= self.high]
            if len(values) <= at_most:
                return values
        return [10.0**power for power in range(low, high + 1, -(-(high - low) // at_most))]


def upwards(values: Iterable[float], *, start: float, end: float, zero: bool = True) -> Scale:
    """Return an axis that holds these values.

    Args:
        values: finite.
        start: place of the lower end.
        end: place of the upper one.
        zero: begin at 0; else on a logarithmic axis when the values are sizes far apart.
    """
    found = [*values] or [0.0, 1.0]
    low, high = min(found), max(found)
    if not zero and low > 0 and high >= LOGARITHMIC_FROM * low:
        return Scale(low, high, start, end, logarithmic=True)
    return Scale(min(low, 0.0), max(high, 0.0) or 1.0, start, end)


def _round_up(step: float) -> float:
    if step <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= step * (1 - 1e-9))
