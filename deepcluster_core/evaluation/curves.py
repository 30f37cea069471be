"""What the clusters of a run, or of several, agree with, as a picture: figure 2 of the paper."""

from collections.abc import Mapping, Sequence
from typing import IO

import pandas as pd

from deepcluster_core.figures import (
    Axes,
    Figure,
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    colormaps,
    default_style,
)
from deepcluster_core.palette import BLUE, GREY, INK, ORANGE, PAPER

PANEL_IN = (4.4, 3.6)


@default_style()
def draw_agreement(run: pd.DataFrame, to: IO[bytes]) -> None:
    """Draw figures 2a and 2b of one run as a PNG: NMI with true labels, and with clusters before.

    Args:
        run: columns epoch, nmi_labels and nmi_previous, null where unknown; a row for each epoch.
        to: where the PNG is written.
    """
    figure, (labels, previous) = _panels(2)
    _by_epoch(labels, {"": run}, "nmi_labels")
    _by_epoch(previous, {"": run}, "nmi_previous")
    _finish(figure, (labels, previous), to)


@default_style()
def draw_agreements(runs: pd.DataFrame, to: IO[bytes]) -> None:
    """Draw the same of a sweep, a line for each k, and what k does: figure 2c as a PNG.

    The paper's figure 2c has the mean average precision on Pascal VOC against k; here it is the
    NMI after the last epoch of each run, which needs no other data set. NMI with true labels tends
    to grow with k: compare with `linear` before choosing k by it.

    Args:
        runs: as for `draw_agreement`, with the column k; by k, then by epoch.
        to: where the PNG is written.
    """
    figure, panels = _panels(3)
    lines = {f"k = {k:,}": runs.query(f"k == {k}") for k in sorted(set(runs["k"]))}
    _by_epoch(panels[0], lines, "nmi_labels")
    _by_epoch(panels[1], lines, "nmi_previous")
    _by_k(panels[2], runs)
    _finish(figure, panels, to)


def _panels(number: int) -> tuple[Figure, Sequence[Axes]]:
    width, height = PANEL_IN
    size = (number * width, height)
    figure = Figure(figsize=size, dpi=110, facecolor=PAPER, layout="constrained")
    return figure, list(figure.subplots(1, number))


TITLES = {
    "nmi_labels": "(a) NMI with the true labels",
    "nmi_previous": "(b) NMI with the clusters before",
}


def _by_epoch(axes: Axes, lines: Mapping[str, pd.DataFrame], column: str) -> None:
    """Draw a column of each run against the epoch, the darkest line for the largest k."""
    for place, (name, run) in enumerate(lines.items(), start=1):
        shade = colormaps["viridis"](0.9 * (1 - place / len(lines))) if len(lines) > 1 else BLUE
        known = run.dropna(subset=[column])
        if len(known):
            axes.plot(known["epoch"], known[column], ".-", color=shade, label=name)
    axes.set_title(TITLES[column], loc="left", fontsize=10)
    axes.set_xlabel("epoch", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _by_k(axes: Axes, runs: pd.DataFrame) -> None:
    last = runs.drop_duplicates("k", keep="last")
    for column, name, colour in (
        ("nmi_labels", "true labels", ORANGE),
        ("nmi_previous", "clusters before", BLUE),
    ):
        known = last.dropna(subset=[column])
        if len(known):
            axes.plot(known["k"], known[column], ".-", color=colour, label=name)
    axes.set_title("(c) NMI after the last epoch, against k", loc="left", fontsize=10)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(last["k"])))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:,.0f}"))
    axes.set_xlabel("k", fontsize=8)


def _finish(figure: Figure, panels: Sequence[Axes], to: IO[bytes]) -> None:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
        if not axes.get_lines():  # no true labels, or one epoch alone
            axes.text(0.5, 0.5, "not known", ha="center", color=GREY, transform=axes.transAxes)
        elif any(not str(line.get_label()).startswith("_") for line in axes.get_lines()):
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(to, format="png")
