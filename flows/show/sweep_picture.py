"""sweep.png: the effect of k, drawn like figure 2(c) of the paper, or of another key."""

import math
from statistics import fmean
from typing import IO

import pandas as pd

from deepcluster_core.figures import Axes, default_style
from deepcluster_core.report import plots
from deepcluster_core.text import printable
from flows.show.sweep_values import TRAINED
from stages.evaluations.shared.network_names import REFERENCES

REFERENCE_STYLES = dict(zip(REFERENCES, ("--", "-.", ":"), strict=True))
"""Line styles of the networks that do not depend on k."""
ACROSS = "across"
"""Column of the position on the horizontal axis."""
LINES_INSIDE = 4
"""Most lines of a panel with the legend inside; with more, it stands beside and hides none."""


@default_style()
def draw_sweep(
    table: pd.DataFrame, values: pd.DataFrame, to: IO[bytes], *, axis: str = "k"
) -> None:
    """Draw a sweep as a PNG.

    Args:
        table: one row for each run and epoch, in that order.
        values: results of evaluations, as in `Evaluated.scores`; each result has a panel.
        to: file that the PNG is written to.
        axis: the column with the varied key.
    """
    labels = list(dict.fromkeys(table[axis]))
    # k has an axis of its own; the values of other keys stand side by side at equal distances.
    place_of = {label: label if axis == "k" else at for at, label in enumerate(labels)}
    table = table.assign(**{ACROSS: [place_of[label] for label in table[axis]]})
    if len(values):
        values = values.assign(**{ACROSS: [place_of[label] for label in values[axis]]})
    results = [rows for _, rows in values.groupby("result")]
    # Two columns of panels: four for the runs, one for each result, and perhaps an unused one.
    num_rows = 2 + math.ceil(len(results) / 2)
    figure = plots.new_figure(11, 3.3 * num_rows)
    agreement, curves, clusters, loss, *others = figure.subplots(num_rows, 2).flat
    evaluated = others[: len(results)]
    unused = others[len(results) :]
    last = table.query("epoch == epoch.max()")
    _draw_agreement(agreement, last)
    _draw_runs(curves, table, axis)
    _draw_clusters(clusters, last)
    plots.draw_curves(loss, last, ACROSS, (plots.CHANCE, plots.LOSS))
    plots.set_title(loss, "Training loss, nats")
    for axes, rows in zip(evaluated, results, strict=True):
        _draw_values(axes, rows)
    for axes in unused:
        axes.remove()
    for axes in (agreement, clusters, loss, *evaluated):
        if axis == "k":
            plots.put_k_across(axes, labels)
        else:
            plots.put_values_across(axes, axis, [printable(str(label)) for label in labels])
    for axes in (agreement, curves, clusters, loss):
        plots.finish(axes)
    for axes in evaluated:
        num_lines = len(axes.get_lines())
        plots.finish(axes, legend_beside=num_lines > LINES_INSIDE)
    figure.savefig(to, format="png")


def _draw_agreement(axes: Axes, last: pd.DataFrame) -> None:
    curves = (plots.TRUE_LABELS, plots.PREVIOUS_CLUSTERS)
    plots.draw_curves(axes, last, ACROSS, curves)
    epoch = last["epoch"].max()
    plots.set_title(axes, f"NMI of the clusters of epoch {epoch} with …")


def _draw_runs(axes: Axes, table: pd.DataFrame, axis: str) -> None:
    """Draw the NMI by epoch, a line for each run: with the true labels or the clusters before."""
    is_labelled = len(table["nmi_labels"].dropna()) > 0
    shown = plots.TRUE_LABELS if is_labelled else plots.PREVIOUS_CLUSTERS
    runs: dict[str, pd.DataFrame] = {}
    for value, run in table.groupby(axis, sort=False):
        shown_value = f"{value:,}" if axis == "k" else printable(str(value))
        runs[f"{axis} = {shown_value}"] = run
    plots.draw_runs(axes, runs, shown.column)
    axes.set_xlim(-0.3, max(table["epoch"]) + 0.3)
    plots.set_title(axes, f"NMI with the {shown.name}, by epoch")


def _draw_clusters(axes: Axes, last: pd.DataFrame) -> None:
    """Draw effective and empty clusters as shares of k; equal clusters are all effective."""
    shares = last[["effective_clusters", "empty_clusters"]].div(last["k"], axis=0)
    shares = shares.assign(**{ACROSS: last[ACROSS]})
    effective = plots.Curve("effective_clusters", "effective")
    empty = plots.Curve("empty_clusters", "empty", plots.ORANGE)
    plots.draw_curves(axes, shares, ACROSS, (effective, empty))
    axes.set_ylim(-0.05, 1.05)
    plots.set_title(axes, "Clusters, as a share of k")


def _draw_values(axes: Axes, values: pd.DataFrame) -> None:
    """Draw figure 2(c): the results of an evaluation in the last epoch with results.

    Networks that do not depend on k are drawn as horizontal lines. On a GPU, their results can
    differ between runs in the last digits; the line is at the mean.
    """
    last = values.query("epoch == epoch.max()")
    measures = list(last["measure"].unique())
    shades = plots.shades(len(measures))
    for shade, measure in zip(shades, measures, strict=True):
        of_measure = last.query("measure == @measure")
        by_network = dict(list(of_measure.groupby("network")))
        trained = by_network.get(TRAINED)
        if trained is not None:
            axes.plot(
                trained[ACROSS], trained["value"], plots.DOTTED_LINE, color=shade, label=measure
            )
        # Lines in grey stand out from the blue of a single measure.
        line_colour = plots.GREY if shade == plots.BLUE else shade
        for network, style in REFERENCE_STYLES.items():
            if network not in by_network:
                continue
            # Each network is named once, not once for each measure.
            label = f"{network} network" if measure == measures[-1] else None
            mean = fmean(by_network[network]["value"])
            axes.axhline(mean, ls=style, lw=1, color=line_colour, label=label)
    result = printable(last["result"].iloc[0])
    epoch = last["epoch"].max()
    plots.set_title(axes, f"{result} after epoch {epoch}, percent")
