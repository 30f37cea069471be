"""Nmi: metrics of all epochs -> agreement of the clusters by epoch, as a table and as figure 2."""

import math
from operator import itemgetter

import pandas as pd

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.config import StrictConfig
from deepcluster_core.report.agreement import draw_agreement, draw_agreements
from deepcluster_core.stage import stage
from stages.evaluations.declaration import Evaluation
from stages.evaluations.shared.epoch_metrics import EpochMetrics, MetricsOfEpochs
from stages.evaluations.shared.results import RESULTS, write_results

PICTURE = "nmi.png"
COLUMNS = (
    "nmi_labels",
    "nmi_previous",
    "moved_fraction",
    "empty_clusters",
    "effective_clusters",
    "loss",
    "ln_k",
)
"""Columns of metrics.parquet that the table takes over, beside k and epoch."""


class NmiConfig(StrictConfig):
    """A protocol without keys: the score stage has computed every number during the run."""


@stage(name="nmi", version=1, kind="evaluations/nmi", files=(RESULTS, PICTURE))
def nmi(
    draft: Draft,
    protocol: NmiConfig,
    /,
    *,
    metrics: MetricsOfEpochs,
) -> None:
    """Write a row for each epoch, and draw figures 2a and 2b; for a sweep also figure 2c.

    Args:
        draft: artifact of the evaluation.
        protocol: has no keys.
        metrics: the metrics of all epochs of one run, or of each run of a sweep.
    """
    rows = [_row(one) for one in metrics.each]
    # A single run is sorted by epoch alone, because its k can change from epoch to epoch.
    rows.sort(key=itemgetter("k", "epoch") if metrics.is_of_sweep else itemgetter("epoch"))
    table = pd.DataFrame(rows)
    with (draft.folder / PICTURE).open("wb") as file:
        if metrics.is_of_sweep:
            draw_agreements(table, file)
        else:
            draw_agreement(table, file)
    write_results(draft, rows, protocol, {PICTURE: "NMI by epoch"})


def _row(metrics: EpochMetrics) -> dict[str, float]:
    """Return the row of an epoch. In a sweep, its k is the one that the sweep asked for."""
    row = read_metrics(metrics.folder)
    k = row["k"] if metrics.k is None else metrics.k
    values: dict[str, float] = {"k": int(k), "epoch": metrics.epoch}
    for name in COLUMNS:
        # Columns of the table are numeric, so a value that could not be computed is NaN.
        values[name] = math.nan if row[name] is None else row[name]
    return values


EVALUATION = Evaluation(
    nmi,
    about="Agreement of the clusters with each other and with the true labels, figure 2",
    data="metrics",
)
