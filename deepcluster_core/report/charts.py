"""The geometry of the charts in report.html: positions of lines, bars, ticks and labels.

A template draws them as inline SVG. A short script shows values in the legend: those at the
position of the pointer, a finger or the arrow keys.

matplotlib's SVG would have three drawbacks. Its colours are fixed, whereas these follow the page's
light or dark mode; its text consists of shapes, which cannot be searched or read out; and the loss
of 50 epochs would take 31 kB instead of 4 kB. Lengths are in units of the drawing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepcluster_core.report.scale import Scale, upwards
from deepcluster_core.text import known, number

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, FLOOR = 46, 388, 10, 190
"""Edges of the area in which values are drawn."""
DOTS_AT_MOST = 40  # more dots would hide their line
STEPS_AT_MOST = 300  # of a histogram; a screen has no pixels for more

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """The values of one curve, or of one layer of bars."""

    name: str
    values: Sequence[float | None]
    """A value for each position on the axis; None and NaN are not drawn."""
    reference: bool = False
    """Whether this is not a result, but a reference for results; it is drawn dotted and grey."""


@dataclass(frozen=True)
class Caption:
    """The text around a chart."""

    title: str
    unit: str
    """Unit of the vertical axis."""
    note: str = ""
    """A sentence below the chart."""


@dataclass(frozen=True)
class Tick:
    """A label of an axis and its position."""

    place: float
    text: str


@dataclass(frozen=True)
class Shape:
    """A shape that is drawn in the colour of a style: `s0`, `s1`, …, or `reference`."""

    style: str
    path: str
    """Value of the attribute `d` in SVG."""
    dots: Sequence[Point] = ()


@dataclass(frozen=True)
class Key:
    """An entry of the legend."""

    style: str
    name: str
    texts: Sequence[str]
    """Text of the value at each position on the axis."""

    @property
    def description(self) -> str:
        """The first and the last value in words."""
        return f"{self.name} {self.texts[0]} to {self.texts[-1]}"


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws."""

    caption: Caption
    levels: Sequence[Tick]
    """Ticks of the vertical axis, drawn as horizontal lines."""
    ticks: Sequence[Tick]
    """Ticks of the horizontal axis."""
    axis: str
    """Name of the horizontal axis."""
    shapes: Sequence[Shape]
    keys: Sequence[Key]
    at: Sequence[float]
    """Positions on the horizontal axis that have values."""
    names: Sequence[str]
    """Name of each of these positions."""
    latest: int = -1
    """Index of the position whose values the legend shows at first."""

    @property
    def description(self) -> str:
        """A description of the chart in words: the first and the last value of each curve."""
        title = self.caption.title
        if not self.names:
            return f"{title}: nothing yet"
        span = f"{self.names[0]} to {self.names[-1]}"
        values = "; ".join(key.description for key in self.keys if key.texts)
        return f"{title}, {self.caption.unit}, {span}: {values}"


def line_chart(
    caption: Caption,
    epochs: Sequence[int],
    lines: Sequence[Series],
    *,
    top: float | None = None,
    zero: bool = True,
) -> Chart | None:
    """Return a chart of curves over epochs; None if no curve has a value.

    Args:
        caption: text around the chart.
        epochs: epochs along the horizontal axis, in order.
        lines: curves; those without any known value are left out.
        top: value that the vertical axis reaches at least.
        zero: whether the vertical axis begins at 0. If not, it may be logarithmic.
    """
    drawn = [line for line in lines if any(map(known, line.values))]
    # A reference is of no use without a result to compare it with.
    if all(line.reference for line in drawn):
        return None
    values: list[float] = []
    for line in drawn:
        values.extend(filter(known, line.values))
    if top is not None:
        values.append(top)
    up = upwards(values, start=FLOOR, end=TOP, zero=zero)

    # The margin keeps the dots of the first and the last epoch within the drawing.
    first = epochs[0] if epochs else 0
    last = epochs[-1] if epochs else 0
    across = Scale(first, last, LEFT + 6, RIGHT - 6)
    at = [across(epoch) for epoch in epochs]

    shapes: list[Shape] = []
    keys: list[Key] = []
    for style, line in zip(_styles(drawn), drawn, strict=True):
        shapes.append(_curve(style, line, at, up))
        keys.append(_key(style, line.name, line.values))
    return Chart(
        caption,
        levels=_levels(up),
        ticks=_whole_ticks(across, 6),
        axis="epoch",
        shapes=shapes,
        keys=keys,
        at=at,
        names=_epoch_names(epochs),
    )


def stacked_bars(caption: Caption, epochs: Sequence[int], layers: Sequence[Series]) -> Chart:
    """Return a chart with a bar for each epoch, each of which is a stack of layers.

    Args:
        caption: text around the chart.
        epochs: epochs along the horizontal axis.
        layers: layers from the lowest to the highest; unknown values count as 0.
    """
    # Each bar lies in the middle of its slot, with a gap to its neighbours.
    slot_width = (RIGHT - LEFT) / max(len(epochs), 1)
    bar_width = round(max(min(slot_width * 0.75, 40), 0.5), 2)
    at: list[float] = []
    for place in range(len(epochs)):
        middle = LEFT + (place + 0.5) * slot_width
        at.append(round(middle, 1))

    layers_of_bars = zip(*(layer.values for layer in layers), strict=True)
    heights = [sum(filter(known, values)) for values in layers_of_bars]
    up = upwards(heights, start=FLOOR, end=TOP)

    # The part of a layer begins where the layers below it end.
    shapes: list[Shape] = []
    keys: list[Key] = []
    below = [0.0] * len(at)
    for plain_style, layer in zip(_styles(layers), layers, strict=True):
        style = f"{plain_style} filled"
        path = ""
        for place, value in enumerate(layer.values):
            if known(value) and value > 0:
                base = up(below[place])
                below[place] += value
                tip = up(below[place])
                left = round(at[place] - bar_width / 2, 1)
                path += f"M{left} {base}h{bar_width}V{tip}h-{bar_width}z"
        shapes.append(Shape(style, path))
        keys.append(_key(style, layer.name, layer.values))

    return Chart(
        caption,
        levels=_levels(up),
        ticks=_epoch_ticks(epochs, at),
        axis="epoch",
        shapes=shapes,
        keys=keys,
        at=at,
        names=_epoch_names(epochs),
    )


def size_histogram(caption: Caption, counts: Sequence[int]) -> Chart:
    """Return a chart of the sizes of clusters, from the largest to the smallest.

    Args:
        caption: text around the chart.
        counts: number of images in each cluster, in any order; at least one cluster.
    """
    ordered = sorted(counts, reverse=True)
    # The mean counts empty clusters, too.
    mean = sum(ordered) / len(ordered)
    # A logarithmic axis has no place for the 0 of empty clusters.
    populated = [float(count) for count in ordered if count > 0]
    up = upwards([*populated, mean], start=FLOOR, end=TOP, zero=False)
    across = Scale(0, len(ordered), LEFT, RIGHT)

    # If there are too many clusters, only some of them are drawn, evenly spaced.
    num_steps = min(len(ordered), STEPS_AT_MOST)
    places = [step * len(ordered) // num_steps for step in range(num_steps)]
    drawn_counts = [ordered[place] for place in places]

    # Each cluster is a horizontal line that ends where that of the next cluster begins.
    ends = [across(place) for place in places[1:]]
    ends.append(float(RIGHT))
    path = f"M{LEFT} {FLOOR}"
    for count, end in zip(drawn_counts, ends, strict=True):
        tip = up(count) if count else FLOOR
        path += f"V{tip}H{end}"
    return Chart(
        caption,
        levels=_levels(up),
        ticks=_whole_ticks(across, 5),
        axis="clusters, the largest first",
        shapes=[
            Shape("s0 filled", f"{path}V{FLOOR}z"),
            Shape("reference", _level_line(up(mean))),
        ],
        keys=[
            _key("s0 filled", "images", drawn_counts),
            _key("reference", "if all were equal", [mean] * num_steps),
        ],
        at=[across(place + 0.5) for place in places],
        names=[f"number {place + 1:,} by size" for place in places],
        latest=0,
    )


def _styles(lines: Sequence[Series]) -> list[str]:
    """Return a style for each curve; only results use up a colour."""
    styles: list[str] = []
    num_results = 0
    for line in lines:
        if line.reference:
            styles.append("reference")
        else:
            styles.append(f"s{num_results}")
            num_results += 1
    return styles


def _key(style: str, name: str, values: Iterable[float | None]) -> Key:
    return Key(style, name, [number(value) for value in values])


def _epoch_names(epochs: Sequence[int]) -> list[str]:
    return [f"epoch {epoch}" for epoch in epochs]


def _epoch_ticks(epochs: Sequence[int], at: Sequence[float]) -> list[Tick]:
    """Return ticks at positions of epochs, at most ten, since more would overlap."""
    epochs_per_tick = max(math.ceil(len(epochs) / 10), 1)
    ticks: list[Tick] = []
    for place in range(0, len(epochs), epochs_per_tick):
        ticks.append(Tick(at[place], f"{epochs[place]:,}"))
    return ticks


def _levels(up: Scale) -> list[Tick]:
    levels: list[Tick] = []
    for value in up.ticks(5):
        # `g` alone would write large numbers with an exponent.
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
        levels.append(Tick(up(value), text))
    return levels


def _whole_ticks(across: Scale, at_most: int) -> list[Tick]:
    values = across.ticks(at_most, whole=True)
    return [Tick(across(value), f"{value:,.0f}") for value in values]


def _level_line(height: float) -> str:
    return f"M{LEFT} {height:g}H{RIGHT}"


def _curve(
    style: str,
    line: Series,
    at: Sequence[float],
    up: Scale,
) -> Shape:
    """Return a curve that is interrupted at unknown values, with dots if these are few enough."""
    points: list[Point | None] = []
    path = ""
    pen = "M"
    for x, value in zip(at, line.values, strict=True):
        if not known(value):
            points.append(None)
            pen = "M"  # lift the pen: move to the next point without a line
            continue
        y = up(value)
        points.append((x, y))
        path += f"{pen}{x:g} {y:g}"
        pen = "L"
    known_points = [point for point in points if point is not None]

    if line.reference:
        if len(at) == 1:
            # A path with one point would be invisible.
            _, height = known_points[0]
            path = _level_line(height)
        return Shape(style, path)
    # A line does not show a point without neighbours, so this one always needs a dot.
    if len(points) > DOTS_AT_MOST:
        return Shape(style, path, _isolated(points))
    return Shape(style, path, known_points)


def _isolated(points: Sequence[Point | None]) -> list[Point]:
    """Return the points without a known neighbour."""
    # At both ends, a point has no neighbour.
    before_each = [None, *points[:-1]]
    after_each = [*points[1:], None]
    isolated: list[Point] = []
    for before, point, after in zip(before_each, points, after_each, strict=True):
        has_neighbour = before is not None or after is not None
        if point is not None and not has_neighbour:
            isolated.append(point)
    return isolated
