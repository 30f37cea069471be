"""Map values of more than 8 bits to uint8 by percentiles that were measured over a data set.

Suffixes: H height, W width, C channels, N measured values.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.unreadable import UnreadableImageError

Deep = Literal["percentile", "range", "stretch"]
Pixels = NDArray[np.uint8]

PERCENTILES = (0.1, 99.9)
"""Percentiles that become 0 and 255. Our choice.

A few dead or saturated pixels, or a burnt-in letter, are fewer than one pixel in a thousand, and
must not decide about the brightness of all others. Most objects that matter are larger.
"""
VALUES_PER_PICTURE = 1 << 14
"""Limit on the values that are measured in a picture, all channels together.

With 1,000 pictures the values need 64 MiB, and each percentile still has thousands beyond it.
"""


@dataclass(frozen=True)
class Scale:
    """The values that become 0 and 255 in one kind of pictures, by channel."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    below: tuple[float, ...]
    """Share of the measured values that are lower, 0 to 1; they become 0."""
    above: tuple[float, ...]
    """Share of the measured values that are higher, 0 to 1; they become 255."""
    pictures: int
    """Number of pictures that were measured."""

    @classmethod
    def of(cls, values_NC: NDArray[np.float32], pictures: int) -> "Scale":
        """Return the scale of measured values."""
        low_C, high_C = np.percentile(values_NC.astype(np.float64), PERCENTILES, axis=0)
        # In a channel with few bright pixels on a uniform ground, both percentiles are the ground.
        is_flat_C = low_C == high_C
        low_C = np.where(is_flat_C, values_NC.min(axis=0), low_C)
        high_C = np.where(is_flat_C, values_NC.max(axis=0), high_C)
        below_C = (values_NC < low_C).mean(axis=0)
        above_C = (values_NC > high_C).mean(axis=0)
        columns = [tuple(map(float, column)) for column in (low_C, high_C, below_C, above_C)]
        return cls(columns[0], columns[1], columns[2], columns[3], pictures)

    def eight_bits(self, values_HWC: NDArray[Any]) -> Pixels:
        """Return values as uint8, channel by channel; a channel without any contrast becomes 0."""
        pixels_HWC = np.zeros(values_HWC.shape, np.uint8)
        for channel, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if low == high:
                continue
            scaled_HW = (values_HWC[..., channel].astype(np.float64) - low) * (255 / (high - low))
            pixels_HWC[..., channel] = np.rint(scaled_HW.clip(0, 255))
        return pixels_HWC


@dataclass(frozen=True)
class DeepScales:
    """The scales of a data set, by the kind of its pictures; see `kind_of`."""

    by_kind: Mapping[str, Scale]

    @classmethod
    def from_facts(cls, facts: Mapping[str, Mapping[str, Any]]) -> "DeepScales":
        """Return the scales that `facts` has described in a manifest."""
        scales: dict[str, Scale] = {}
        for kind, values in facts.items():
            columns = [tuple(values[name]) for name in ("low", "high", "below", "above")]
            scales[kind] = Scale(*columns, pictures=values["pictures"])
        return cls(scales)

    def facts(self) -> dict[str, Any]:
        """Return the scales as JSON for a manifest."""
        return {kind: asdict(scale) for kind, scale in self.by_kind.items()}

    def sentences(self) -> list[str]:
        """Return a line for each kind: which values became 0 and 255."""
        return [f"deep: percentile, {kind}: {_line(scale)}" for kind, scale in self.by_kind.items()]

    def eight_bits(self, values_HWC: NDArray[Any]) -> Pixels:
        """Return values as uint8.

        Raises:
            UnreadableImageError: no picture of this kind was measured, or values are not finite.
        """
        kind = kind_of(values_HWC)
        scale = self.by_kind.get(kind)
        if scale is None:
            measured = ", ".join(self.by_kind) or "none at all"
            raise UnreadableImageError(
                f"values of more than 8 bits ({kind}), but none such was measured for deep: "
                f"percentile ({measured}): convert it, or set deep: range or stretch"
            )
        check_finite(values_HWC)
        return scale.eight_bits(values_HWC)


DeepRule = Literal["range", "stretch"] | DeepScales
"""How values of more than 8 bits become uint8 ones; percentiles have been measured."""


class Measurement:
    """Collects values of some pictures of a data set, until their percentiles are computed."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[NDArray[np.float32]]] = defaultdict(list)

    def add(self, kind: str, values_NC: NDArray[np.float32]) -> None:
        """Add the result of `sample` for one picture; one that is all transparent has none."""
        if len(values_NC) > 0:
            self._values[kind].append(values_NC)

    def scales(self) -> DeepScales:
        """Return the scales of all kinds that were added, in the order of their names."""
        scales: dict[str, Scale] = {}
        for kind in sorted(self._values):
            arrays = self._values[kind]
            scales[kind] = Scale.of(np.concatenate(arrays), len(arrays))
        return DeepScales(scales)


def kind_of(values_HWC: NDArray[Any]) -> str:
    """Return the kind of values that have one scale: `integers, 3 channels`."""
    numbers = "fractions" if values_HWC.dtype.kind == "f" else "integers"
    channels = values_HWC.shape[2]
    return f"{numbers}, {channels} channel{'s' * (channels > 1)}"


def sample(values_HWC: NDArray[Any], shown_HW: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Return some of a picture's values (N, C), on a regular grid; transparent ones are left out.

    Raises:
        UnreadableImageError: values are not finite.
    """
    height, width, channels = values_HWC.shape
    step = math.ceil(math.sqrt(height * width * channels / VALUES_PER_PICTURE))
    step = max(1, step)
    grid_HWC = values_HWC[::step, ::step]
    check_finite(grid_HWC)
    values_NC = grid_HWC.reshape(-1, channels).astype(np.float32)
    if shown_HW is None:
        return values_NC
    return values_NC[shown_HW[::step, ::step].reshape(-1)]


def check_finite(values: NDArray[Any]) -> None:
    """Raise UnreadableImageError if values are infinite or not numbers."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableImageError("pixel values are infinite or not numbers")


def _line(scale: Scale) -> str:
    ranges = [f"{low:,.6g} to {high:,.6g}" for low, high in zip(scale.low, scale.high, strict=True)]
    clipped = f"{max(scale.below):.2%} of the values are below, {max(scale.above):.2%} above"
    number = "1 picture" if scale.pictures == 1 else f"{scale.pictures:,} pictures"
    return f"{', '.join(ranges)} became 0 to 255; {clipped} (measured in {number})"
