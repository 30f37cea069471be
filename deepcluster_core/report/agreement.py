"""nmi.png: agreement of the clusters of a run or a sweep with other labellings. Figure 2."""

from collections.abc import Sequence
from dataclasses import replace
from typing import IO

import pandas as pd

from deepcluster_core.figures import Axes, Figure, default_style
from deepcluster_core.report import plots

PANEL_WIDTH_IN, PANEL_HEIGHT_IN = 4.4, 3.6

TITLES = {
    "nmi_labels": "(a) NMI with the true labels",
    "nmi_previous": "(b) NMI with the clusters before",
}
AGAINST_K = (plots.TRUE_LABELS, replace(plots.PREVIOUS_CLUSTERS, name="clusters before"))


@default_style()
def draw_agreement(run: pd.DataFrame, to: IO[bytes]) -> None:
    """Draw figures 2a and 2b of one run as a PNG: NMI with true labels and with previous clusters.

    Args:
        run: a row for each epoch, with columns epoch, nmi_labels and nmi_previous, null if unknown.
        to: file to write the PNG to.
    """
    # A single run has no name, and thus no legend.
    runs = {"": run}
    figure, panels = _panels(2)
    for axes, column in zip(panels, TITLES, strict=True):
        plots.draw_runs(axes, runs, column)
        plots.set_title(axes, TITLES[column])
    _save(figure, panels, to)


@default_style()
def draw_agreements(runs: pd.DataFrame, to: IO[bytes]) -> None:
    """Draw figures 2a and 2b of a sweep, a line for each k, and the effect of k, as a PNG.

    The paper's figure 2c shows the mean average precision on Pascal VOC against k. Here it shows
    the NMI after the last epoch of each run, which needs no other data set. NMI with true labels
    tends to grow with k, so compare it with `linear` before choosing k by it.

    Args:
        runs: rows as for `draw_agreement`, with the column k; ordered by k and then by epoch.
        to: file to write the PNG to.
    """
    figure, panels = _panels(3)
    *epoch_panels, k_panel = panels
    runs_by_name = {f"k = {k:,}": run for k, run in runs.groupby("k")}
    for axes, column in zip(epoch_panels, TITLES, strict=True):
        plots.draw_runs(axes, runs_by_name, column)
        plots.set_title(axes, TITLES[column])

    # The rows are in order, so the last row of each k is that of its last epoch.
    last_rows = runs.drop_duplicates("k", keep="last")
    plots.draw_curves(k_panel, last_rows, "k", AGAINST_K)
    plots.set_title(k_panel, "(c) NMI after the last epoch, against k")
    plots.put_k_across(k_panel, list(last_rows["k"]))
    _save(figure, panels, to)


def _panels(num_panels: int) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with panels side by side."""
    figure = plots.new_figure(num_panels * PANEL_WIDTH_IN, PANEL_HEIGHT_IN)
    return figure, list(figure.subplots(1, num_panels))


def _save(figure: Figure, panels: Sequence[Axes], to: IO[bytes]) -> None:
    for axes in panels:
        plots.finish(axes)
    figure.savefig(to, format="png")
