"""Curves drawn with matplotlib: the parts and the style that all PNGs have in common.

`overview.png` and `nmi.png` of a run and `sweep.png` of a sweep are composed of these. The
interactive charts of report.html are drawn by `charts` instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from deepcluster_core.figures import (
    Axes,
    Figure,
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    colormaps,
)

PAPER, INK, GREY = "#ffffff", "#222222", "#888888"
BLUE, ORANGE = "#2a6fbb", "#d9762b"
TITLE_POINTS, TEXT_POINTS = 10, 8
DOTTED_LINE = ".-"
REFERENCE_LINE = ":"

Colour = str | tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """A column of a table, and the style of its curve."""

    column: str
    name: str
    """Name in the legend; an empty name is not listed."""
    colour: Colour = BLUE
    line: str = DOTTED_LINE


TRUE_LABELS = Curve("nmi_labels", "true labels", ORANGE)
PREVIOUS_CLUSTERS = Curve("nmi_previous", "previous clusters")
LOSS = Curve("loss", "loss")
CHANCE = Curve("ln_k", "ln k: nothing learnt", GREY, REFERENCE_LINE)


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width_in, height_in), dpi=110, facecolor=PAPER, layout="constrained")


def shades(count: int) -> list[Colour]:
    """Return colours for lines that have an order; the last line is the darkest."""
    if count == 1:
        return [BLUE]
    # The brightest tenth of the map is hard to see on white paper.
    colour_map = colormaps["viridis"]
    colours: list[Colour] = []
    for place in range(1, count + 1):
        brightness = 0.9 * (1 - place / count)
        colours.append(colour_map(brightness))
    return colours


def draw_curves(
    axes: Axes,
    table: pd.DataFrame,
    across: str,
    curves: Sequence[Curve],
) -> None:
    """Draw the known values of some columns of a table against another column.

    Args:
        axes: axes to draw on.
        table: one row for each position on the horizontal axis, in order.
        across: the column of the horizontal axis.
        curves: curves to draw; those without any known value are left out.
    """
    for curve in curves:
        # Without its unknown values, a curve has no gaps.
        known = table.dropna(subset=[curve.column])
        if len(known):
            axes.plot(
                known[across],
                known[curve.column],
                curve.line,
                color=curve.colour,
                label=curve.name,
            )


def draw_runs(axes: Axes, runs: Mapping[str, pd.DataFrame], column: str) -> None:
    """Draw a column of several runs against the epoch, the darkest line for the last run.

    Args:
        axes: axes to draw on.
        runs: tables with a column `epoch`, by the name in the legend.
        column: the column to draw.
    """
    colours = shades(len(runs))
    for colour, (name, run) in zip(colours, runs.items(), strict=True):
        curve = Curve(column, name, colour)
        draw_curves(axes, run, "epoch", [curve])
    put_epochs_across(axes)


def set_title(axes: Axes, title: str) -> None:
    """Write a title above the left end of the axes, without reading dollar signs as maths."""
    axes.set_title(title, loc="left", fontsize=TITLE_POINTS, parse_math=False)


def put_epochs_across(axes: Axes) -> None:
    """Give the horizontal axis its name and ticks at whole epochs only."""
    axes.set_xlabel("epoch", fontsize=TEXT_POINTS)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def put_k_across(axes: Axes, ks: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic, with a tick at each k of a sweep."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:,.0f}"))
    axes.set_xlabel("k", fontsize=TEXT_POINTS)


def put_values_across(axes: Axes, key: str, labels: Sequence[str]) -> None:
    """Put the values of a key on the horizontal axis, at 0, 1, 2 and so on."""
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.3, len(labels) - 0.7)
    axes.set_xlabel(key, fontsize=TEXT_POINTS)


def finish(axes: Axes, *, legend_beside: bool = False) -> None:
    """Style axes and add the legend. If they have no curves, write that nothing is known.

    Args:
        axes: axes whose curves are already drawn.
        legend_beside: put the legend to the right of the axes instead of inside.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=TEXT_POINTS)
    if not axes.get_lines():  # no image has a true label, or there is only one epoch
        axes.text(0.5, 0.5, "not known", ha="center", color=GREY, transform=axes.transAxes)
        return
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        place: dict[str, Any] = {}
        if legend_beside:
            place = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        axes.legend(frameon=False, fontsize=TEXT_POINTS, **place)
