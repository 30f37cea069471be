"""Nmi: metrics of all epochs -> what the clusters agree with, as a table and as figure 2."""

import math
import re
from pathlib import Path

import pandas as pd

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.config import StrictConfig
from deepcluster_core.report.agreement import draw_agreement, draw_agreements
from deepcluster_core.stage import stage
from stages.evaluations.declaration import Evaluation
from stages.evaluations.results import RESULTS, write_results

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
"""Of metrics.parquet, beside k and epoch."""

NAME = re.compile(r"(?:k=(?P<k>\d+)/)?epoch=(?P<epoch>\d+)")


class NmiConfig(StrictConfig):
    """Nothing to set: every number was counted when the run was made, see the score stage."""


@stage(name="nmi", version=1, kind="evaluations/nmi", files=(RESULTS, PICTURE))
def nmi(
    draft: Draft,
    protocol: NmiConfig,
    /,
    **metrics: Path,
) -> None:
    """Write a row for each epoch, and draw figures 2a and 2b; of a sweep each k is a line, and 2c.

    Args:
        protocol: has no keys.
        metrics: artifacts named `epoch=0003`, of one run, or `k=00010/epoch=0003`, of a sweep.
    """
    swept = any(name.startswith("k=") for name in metrics)
    rows = [_row(name, folder) for name, folder in metrics.items()]
    rows.sort(key=lambda row: (row["k"] if swept else 0, row["epoch"]))
    table = pd.DataFrame(rows)
    with (draft.folder / PICTURE).open("wb") as file:
        (draw_agreements if swept else draw_agreement)(table, file)
    write_results(draft, rows, protocol)


def _row(name: str, folder: Path) -> dict[str, float]:
    """Return what one epoch's metrics say; its k is the one asked for where a sweep names it."""
    found = NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"metrics are named epoch=0003 or k=00010/epoch=0003, not {name}")
    row = read_metrics(folder)
    known = {name: math.nan if row[name] is None else row[name] for name in COLUMNS}
    return {"k": int(found["k"] or row["k"]), "epoch": int(found["epoch"])} | known


EVALUATION = Evaluation(nmi, data="metrics")
