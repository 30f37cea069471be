"""sweep.png: what k does, after figure 2(c) of the paper."""

import math
from collections.abc import Sequence
from statistics import fmean
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
from deepcluster_core.palette import BLUE, INK, ORANGE, PAPER
from deepcluster_core.text import printable
from flows.sweep_values import REFERENCES, TRAINED

GREY = "#888888"
LINES_INSIDE = 4
"""Of a panel, up to which their names hide none of them."""


@default_style()
def draw_sweep(table: pd.DataFrame, values: pd.DataFrame, to: IO[bytes]) -> None:
    """Draw a sweep as a PNG.

    Args:
        table: one row for each k and epoch, in that order.
        values: what evaluations say about its networks, see `Evaluated.table`; a panel for each.
        to: where the PNG is written.
    """
    results = [of_one for _, of_one in values.groupby("result")]
    num_rows = 2 + math.ceil(len(results) / 2)
    size = (11, 3.3 * num_rows)
    figure = Figure(figsize=size, dpi=110, facecolor=PAPER, layout="constrained")
    agreement, curves, clusters, loss, *others = figure.subplots(num_rows, 2).flat
    judged, unused = others[: len(results)], others[len(results) :]
    last = table.query("epoch == epoch.max()")
    ks = list(last["k"])
    _draw_agreement(agreement, last)
    _draw_curves(curves, table, ks)
    _draw_clusters(clusters, last)
    _draw_loss(loss, last)
    for axes, of_one in zip(judged, results, strict=True):
        _draw_values(axes, of_one)
    for axes in unused:
        axes.remove()
    for axes in (agreement, clusters, loss, *judged):
        _logarithmic(axes, ks)
    for axes in (agreement, curves, clusters, loss, *judged):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
        if axes.get_lines():  # of one epoch without true labels nothing is known
            axes.legend(frameon=False, fontsize=8)
    for axes in judged:
        if len(axes.get_lines()) > LINES_INSIDE:
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(to, format="png")


def _draw_agreement(axes: Axes, last: pd.DataFrame) -> None:
    for column, name, colour in (
        ("nmi_labels", "true labels", ORANGE),
        ("nmi_previous", "previous clusters", BLUE),
    ):
        known = last.dropna(subset=[column])
        if len(known):
            axes.plot(known["k"], known[column], ".-", color=colour, label=name)
    epoch = last["epoch"].max()
    axes.set_title(f"NMI of the clusters of epoch {epoch} with …", loc="left", fontsize=10)


def _draw_curves(axes: Axes, table: pd.DataFrame, ks: Sequence[int]) -> None:
    """Draw the NMI by epoch, a line for each k: with the true labels where those are known."""
    labelled = len(table.dropna(subset=["nmi_labels"])) > 0
    column = "nmi_labels" if labelled else "nmi_previous"
    name = "true labels" if labelled else "previous clusters"
    shades = colormaps["viridis"]
    for place, k in enumerate(ks):
        rows = table.query(f"k == {k}")
        shade = shades(0.9 * (1 - (place + 1) / len(ks)))  # the darkest for the largest k
        axes.plot(rows["epoch"], rows[column], ".-", color=shade, label=f"k = {k:,}")
    axes.set_xlim(-0.3, len(table) / len(ks) - 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_title(f"NMI with the {name}, by epoch", loc="left", fontsize=10)


def _draw_clusters(axes: Axes, last: pd.DataFrame) -> None:
    """Draw shares of k: 1 effective if all clusters are of equal size, less where they are not."""
    for column, name, colour in (
        ("effective_clusters", "effective", BLUE),
        ("empty_clusters", "empty", ORANGE),
    ):
        axes.plot(last["k"], last[column] / last["k"], ".-", color=colour, label=name)
    axes.set_ylim(-0.05, 1.05)
    axes.set_title("Clusters, as a share of k", loc="left", fontsize=10)


def _draw_loss(axes: Axes, last: pd.DataFrame) -> None:
    axes.plot(last["k"], last["ln_k"], ":", color=GREY, label="ln k: nothing learnt")
    axes.plot(last["k"], last["loss"], ".-", color=BLUE, label="loss")
    axes.set_title("Training loss, nats", loc="left", fontsize=10)


def _draw_values(axes: Axes, values: pd.DataFrame) -> None:
    """Draw figure 2(c): what an evaluation says of the last epoch that it was asked of, against k.

    Networks that are the same for every k are lines across; on a GPU, where they may differ in the
    last digits, at their mean.
    """
    last = values.query("epoch == epoch.max()")
    measures = list(last["measure"].unique())
    for place, measure in enumerate(measures):
        alone = len(measures) == 1
        shade = BLUE if alone else colormaps["viridis"](0.9 * place / (len(measures) - 1))
        by_network = dict(list(last.query("measure == @measure").groupby("network")))
        if (trained := by_network.get(TRAINED)) is not None:
            axes.plot(trained["k"], trained["value"], ".-", color=shade, label=measure)
        for network, style in zip(REFERENCES, ("--", ":"), strict=True):
            if network in by_network:
                label = f"{network} network" if place == len(measures) - 1 else None
                height = fmean(by_network[network]["value"])
                colour = GREY if alone else shade
                axes.axhline(height, ls=style, lw=1, color=colour, label=label)
    title = f"{printable(last['result'].iloc[0])} after epoch {last['epoch'].max()}, percent"
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)


def _logarithmic(axes: Axes, ks: Sequence[int]) -> None:
    """Put k on a logarithmic axis, with a tick at each that there is."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("k", fontsize=8)
