"""The geometry of the charts in report.html: positions of lines, bars, ticks and labels.

A template draws them as inline SVG. A short script shows values in the legend: those at the
position of the pointer, a finger or the arrow keys.

matplotlib's SVG would have three drawbacks. Its colours are fixed, whereas these follow the page's
light or dark mode; its text consists of shapes, which cannot be searched or read out; and the loss
of 50 epochs would take 31 kB instead of 4 kB. Lengths are in units of the drawing.
"""

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
        ends = (f"{key.name} {key.texts[0]} to {key.texts[-1]}" for key in self.keys if key.texts)
        span = f"{self.names[0]} to {self.names[-1]}"
        return f"{title}, {self.caption.unit}, {span}: {'; '.join(ends)}"


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
    drawn = [line for line in lines if any(known(value) for value in line.values)]
    if all(line.reference for line in drawn):
        return None
    values = [value for line in drawn for value in line.values if known(value)]
    if top is not None:
        values.append(top)
    up = upwards(values, start=FLOOR, end=TOP, zero=zero)
    low, high = (epochs[0], epochs[-1]) if epochs else (0, 0)
    across = Scale(low, high, LEFT + 6, RIGHT - 6)
    at = [across(epoch) for epoch in epochs]
    styled = list(zip(_styles(drawn), drawn, strict=True))
    return Chart(
        caption,
        levels=_levels(up),
        ticks=_whole_ticks(across, 6),
        axis="epoch",
        shapes=[_curve(style, line, at, up) for style, line in styled],
        keys=[_key(style, line.name, line.values) for style, line in styled],
        at=at,
        names=[f"epoch {epoch}" for epoch in epochs],
    )


def stacked_bars(caption: Caption, epochs: Sequence[int], layers: Sequence[Series]) -> Chart:
    """Return a chart with a bar for each epoch, each of which is a stack of layers.

    Args:
        caption: text around the chart.
        epochs: epochs along the horizontal axis.
        layers: layers from the lowest to the highest; unknown values count as 0.
    """
    slot = (RIGHT - LEFT) / max(len(epochs), 1)
    width = round(max(min(slot * 0.75, 40), 0.5), 2)
    at = [round(LEFT + (place + 0.5) * slot, 1) for place in range(len(epochs))]
    bars = zip(*(layer.values for layer in layers), strict=True)
    up = upwards([sum(filter(known, bar)) for bar in bars], start=FLOOR, end=TOP)
    styles = [f"{style} filled" for style in _styles(layers)]

    shapes: list[Shape] = []
    below = [0.0] * len(at)
    for style, layer in zip(styles, layers, strict=True):
        path = ""
        for place, value in enumerate(layer.values):
            if known(value) and value > 0:
                base, tip = up(below[place]), up(below[place] + value)
                left = round(at[place] - width / 2, 1)
                path += f"M{left} {base}h{width}V{tip}h-{width}z"
                below[place] += value
        shapes.append(Shape(style, path))

    every = -(-len(epochs) // 10) or 1  # at most ten ticks: rounded up, and at least 1
    return Chart(
        caption,
        levels=_levels(up),
        ticks=[Tick(at[place], f"{epochs[place]:,}") for place in range(0, len(at), every)],
        axis="epoch",
        shapes=shapes,
        keys=[
            _key(style, layer.name, layer.values)
            for style, layer in zip(styles, layers, strict=True)
        ],
        at=at,
        names=[f"epoch {epoch}" for epoch in epochs],
    )


def size_histogram(caption: Caption, counts: Sequence[int]) -> Chart:
    """Return a chart of the sizes of clusters, from the largest to the smallest.

    Args:
        caption: text around the chart.
        counts: number of images in each cluster, in any order; at least one cluster.
    """
    ordered = sorted(counts, reverse=True)
    mean = sum(ordered) / len(ordered)
    populated = [float(count) for count in ordered if count > 0]
    up = upwards([*populated, mean], start=FLOOR, end=TOP, zero=False)
    across = Scale(0, len(ordered), LEFT, RIGHT)
    # If there are too many clusters, only some of them are drawn, evenly spaced.
    steps = min(len(ordered), STEPS_AT_MOST)
    places = [step * len(ordered) // steps for step in range(steps)]
    ends = [across(place) for place in places[1:]] + [float(RIGHT)]
    path = f"M{LEFT} {FLOOR}"
    for place, end in zip(places, ends, strict=True):
        tip = up(ordered[place]) if ordered[place] else FLOOR
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
            _key("s0 filled", "images", [ordered[place] for place in places]),
            _key("reference", "if all were equal", [mean] * len(places)),
        ],
        at=[across(place + 0.5) for place in places],
        names=[f"number {place + 1:,} by size" for place in places],
        latest=0,
    )


def _styles(lines: Sequence[Series]) -> list[str]:
    numbers = iter(range(len(lines)))
    return ["reference" if line.reference else f"s{next(numbers)}" for line in lines]


def _key(style: str, name: str, values: Iterable[float | None]) -> Key:
    return Key(style, name, [number(value) for value in values])


def _levels(up: Scale) -> list[Tick]:
    return [
        Tick(up(tick), f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:g}") for tick in up.ticks(5)
    ]


def _whole_ticks(across: Scale, at_most: int) -> list[Tick]:
    return [Tick(across(tick), f"{tick:,.0f}") for tick in across.ticks(at_most, whole=True)]


def _level_line(height: float) -> str:
    return f"M{LEFT} {height:g}H{RIGHT}"


def _curve(style: str, line: Series, at: Sequence[float], up: Scale) -> Shape:
    """Return a curve that is interrupted at unknown values, with dots if these are few enough."""
    points = [
        (x, up(value)) if known(value) else None for x, value in zip(at, line.values, strict=True)
    ]
    seen = [point for point in points if point is not None]
    if line.reference and len(at) == 1:
        return Shape(style, _level_line(seen[0][1]))  # a path with one point would be invisible
    path, pen = "", "M"
    for point in points:
        if point is None:
            pen = "M"  # lift the pen: move to the next point without a line
        else:
            path += f"{pen}{point[0]:g} {point[1]:g}"
            pen = "L"
    if line.reference:
        return Shape(style, path)
    return Shape(style, path, _alone(points) if len(points) > DOTS_AT_MOST else seen)


def _alone(points: Sequence[Point | None]) -> list[Point]:
    """Return the points without neighbours, which a line does not show."""
    padded = [None, *points, None]
    alone: list[Point] = []
    for before, point, after in zip(padded, points, padded[2:], strict=False):
        if point is not None and before is None and after is None:
            alone.append(point)
    return alone
