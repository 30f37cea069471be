"""Charts as inline SVG: they need no script, and no library. Lengths are units of the drawing.

Beside its drawing a chart has a legend that holds the latest values; a few lines of script put the
values there that the pointer, a finger or the arrow keys point at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from deepcluster_core.report.html import escaped, known, number
from deepcluster_core.report.scale import Scale, upwards

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
DOTS_AT_MOST = 40  # more of them hide their line
STEPS_AT_MOST = 300  # of a histogram: more than a screen has pixels for them

Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    values: Values
    """One for each place of the axis; None and NaN are not drawn."""
    reference: bool = False
    """No result but what results are compared with: drawn dotted and grey."""


@dataclass(frozen=True)
class Chart:
    """What all charts have."""

    title: str
    unit: str
    """What the vertical axis counts."""
    epochs: Sequence[int]
    """Along the horizontal axis."""
    note: str = ""
    """A sentence below it; text, not HTML."""


def line_chart(
    chart: Chart, lines: Sequence[Line], *, top: float | None = None, zero: bool = True
) -> str:
    """Return a figure of curves over epochs; nothing where none of them has a value.

    Args:
        chart: its title and axis.
        lines: curves that have at least one known value are drawn.
        top: the least upper end of the vertical axis.
        zero: have it begin at 0; else it may be logarithmic.
    """
    drawn = [line for line in lines if any(known(value) for value in line.values)]
    if all(line.reference for line in drawn):
        return ""
    values = [value for line in drawn for value in line.values if known(value)]
    across = _across(chart.epochs)
    up = upwards(
        [*values, *([] if top is None else [top])], start=HEIGHT - BOTTOM, end=TOP, zero=zero
    )
    styles = _styles(drawn)
    parts = [_grid(up), _epoch_axis(across)]
    at = [across(epoch) for epoch in chart.epochs]
    for line, style in zip(drawn, styles, strict=True):
        parts.append(f'<g class="{style}">{_curve(line, at, up)}</g>')
    keys = [
        _Key(style, line.name, [number(value) for value in line.values])
        for line, style in zip(drawn, styles, strict=True)
    ]
    return _figure(chart, "".join(parts), at, [f"epoch {epoch}" for epoch in chart.epochs], keys)


def stacked_bars(chart: Chart, layers: Sequence[Line]) -> str:
    """Return a figure of bars, one an epoch, that are made of layers.

    Args:
        chart: its title and axis.
        layers: from the lowest; unknown values count as 0.
    """
    at = _centres(len(chart.epochs))
    bars = zip(*(layer.values for layer in layers), strict=True)
    total = [sum(value for value in bar if known(value)) for bar in bars]
    up = upwards(total, start=HEIGHT - BOTTOM, end=TOP)
    slot = (WIDTH - LEFT - RIGHT) / max(len(at), 1)
    width = round(max(min(slot * 0.75, 40), 0.5), 2)
    parts, below = [_grid(up), _bar_axis(chart.epochs, at)], [0.0] * len(at)
    for layer, style in zip(layers, _styles(layers), strict=True):
        path = ""
        for place, value in enumerate(layer.values):
            if known(value) and value > 0:
                base, tip = up(below[place]), up(below[place] + value)
                left = round(at[place] - width / 2, 1)
                path += f"M{left} {base}h{width}V{tip}h-{width}z"
                below[place] += value
        parts.append(f'<path class="{style} filled" d="{path}"/>')
    keys = [
        _Key(f"{style} filled", layer.name, [number(value) for value in layer.values])
        for style, layer in zip(_styles(layers), layers, strict=True)
    ]
    return _figure(chart, "".join(parts), at, [f"epoch {epoch}" for epoch in chart.epochs], keys)


def size_histogram(chart: Chart, counts: Sequence[int]) -> str:
    """Return a figure of the sizes of clusters from the largest to the smallest.

    Args:
        chart: its title; the axis is made here.
        counts: images in each cluster, in any order; at least one.
    """
    ordered = sorted(counts, reverse=True)
    places = _spread(len(ordered))
    mean = sum(ordered) / len(ordered)
    populated = [float(count) for count in ordered if count > 0]
    up = upwards([*populated, mean], start=HEIGHT - BOTTOM, end=TOP, zero=False)
    across = Scale(0, len(ordered), LEFT, WIDTH - RIGHT)
    at = [across(place + 0.5) for place in places]
    bounds = [across(place) for place in places] + [WIDTH - RIGHT]
    tips = [up(ordered[place]) if ordered[place] else HEIGHT - BOTTOM for place in places]
    steps = "".join(
        f"V{tip}H{round(right, 1)}" for tip, right in zip(tips, bounds[1:], strict=True)
    )
    floor = HEIGHT - BOTTOM
    drawing = (
        f'{_grid(up)}<path class="s0 filled" d="M{LEFT} {floor}{steps}V{floor}z"/>'
        f'<path class="reference" d="M{LEFT} {up(mean)}H{WIDTH - RIGHT}"/>'
        + _labels_below(across, "clusters, the largest first")
    )
    keys = [
        _Key("s0 filled", "images", [number(ordered[place]) for place in places]),
        _Key("reference", "if all were equal", [number(mean)] * len(places)),
    ]
    names = [f"number {place + 1:,} by size" for place in places]
    return _figure(chart, drawing, at, names, keys, latest=0)


@dataclass(frozen=True)
class _Key:
    """A line of the legend."""

    style: str
    name: str
    texts: Sequence[str]


def _figure(
    chart: Chart,
    drawing: str,
    at: Sequence[float],
    names: Sequence[str],
    keys: Sequence[_Key],
    latest: int = -1,
) -> str:
    """Return a drawing with what surrounds it, and what the script needs to know of it."""
    legend = "".join(
        f'<li class="{key.style}" data-texts="{escaped("|".join(key.texts))}">'
        f"<span>{escaped(key.name)}</span> <b>{escaped(key.texts[latest])}</b></li>"
        for key in keys
        if key.texts
    )
    now = names[latest] if names else "nothing yet"
    note = f"<p>{escaped(chart.note)}</p>" if chart.note else ""
    places = ",".join(f"{place:g}" for place in at)
    return (
        f'<figure class="chart"><figcaption><h3>{escaped(chart.title)}</h3> '
        f"<small>{escaped(chart.unit)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escaped(_told(chart, names, keys))}" data-at="{places}" '
        f'data-names="{escaped("|".join(names))}" data-top="{TOP}" data-floor="{HEIGHT - BOTTOM}">'
        f"{drawing}</svg>"
        f'<ul class="legend"><li class="when">{escaped(now)}</li>{legend}</ul>{note}</figure>'
    )


def _told(chart: Chart, names: Sequence[str], keys: Sequence[_Key]) -> str:
    """Return in words where each curve begins and ends."""
    if not names:
        return f"{chart.title}: nothing yet"
    told = (f"{key.name} {key.texts[0]} to {key.texts[-1]}" for key in keys if key.texts)
    return f"{chart.title}, {chart.unit}, {names[0]} to {names[-1]}: {'; '.join(told)}"


def _styles(lines: Sequence[Line]) -> list[str]:
    numbers = iter(range(len(lines)))
    return ["reference" if line.reference else f"s{next(numbers)}" for line in lines]


def _across(epochs: Sequence[int]) -> Scale:
    low, high = (epochs[0], epochs[-1]) if epochs else (0, 0)
    return Scale(low, high, LEFT + 6, WIDTH - RIGHT - 6)


def _centres(bars: int) -> list[float]:
    slot = (WIDTH - LEFT - RIGHT) / max(bars, 1)
    return [round(LEFT + (place + 0.5) * slot, 1) for place in range(bars)]


def _spread(clusters: int) -> list[int]:
    """Return which of the sorted clusters are drawn: all, or evenly some of very many."""
    steps = min(clusters, STEPS_AT_MOST)
    return [place * clusters // steps for place in range(steps)]


def _grid(up: Scale) -> str:
    return "".join(
        f'<path class="grid" d="M{LEFT} {up(tick)}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{up(tick) + 4:g}" text-anchor="end">'
        f"{_tick(tick)}</text>"
        for tick in up.ticks(5)
    )


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _epoch_axis(across: Scale) -> str:
    ticks = ((across(tick), int(tick)) for tick in across.ticks(6, whole=True))
    return _axis(ticks, "epoch")


def _bar_axis(epochs: Sequence[int], at: Sequence[float]) -> str:
    every = -(-len(epochs) // 10) or 1
    return _axis(((at[place], epochs[place]) for place in range(0, len(epochs), every)), "epoch")


def _labels_below(across: Scale, name: str) -> str:
    ticks = ((across(tick), int(tick)) for tick in across.ticks(5, whole=True))
    return _axis(ticks, name)


def _axis(ticks: Iterator[tuple[float, int]], name: str) -> str:
    """Return the labels of the horizontal axis, and below them its name."""
    shown = [_below(place, 15, f"{value:,}") for place, value in ticks]
    return "".join(shown) + _below((LEFT + WIDTH - RIGHT) / 2, 32, name)


def _below(x: float, down: float, text: str) -> str:
    y = HEIGHT - BOTTOM + down
    return f'<text class="tick" x="{x:g}" y="{y:g}" text-anchor="middle">{text}</text>'


def _curve(line: Line, at: Sequence[float], up: Scale) -> str:
    """Return the path of a curve, broken where values are unknown, and dots where they show."""
    points = [
        (x, up(value)) if known(value) else None for x, value in zip(at, line.values, strict=True)
    ]
    path, pen = "", "M"
    for point in points:
        if point is not None:
            path += f"{pen}{point[0]:g} {point[1]:g}"
        pen = "M" if point is None else "L"
    if line.reference:
        if len(at) == 1:  # a line even so
            path = f"M{LEFT} {points[0][1]:g}H{WIDTH - RIGHT}" if points[0] else ""
        return f'<path d="{path}"/>'
    alone = _alone(points) if len(points) > DOTS_AT_MOST else [p for p in points if p]
    dots = "".join(f'<circle cx="{x:g}" cy="{y:g}" r="2.6"/>' for x, y in alone)
    return f'<path d="{path}"/>{dots}'


def _alone(points: Sequence[tuple[float, float] | None]) -> list[tuple[float, float]]:
    """Return the points without neighbours, of which a line shows nothing."""
    around = [None, *points, None]
    return [
        here
        for (before, here), (_, after) in pairwise(pairwise(around))
        if here is not None and before is None and after is None
    ]
