"""The charts of a run in report.html, from the metrics of its epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepcluster_core.report.charts import (
    Caption,
    Chart,
    Series,
    line_chart,
    size_histogram,
    stacked_bars,
)
from deepcluster_core.report.words import ABOUT_RANK
from deepcluster_core.text import duration, known

Row = Mapping[str, Any]
"""Metrics of an epoch by the names of their columns, together with `epoch` and `score_s`. Metrics
that an earlier version did not write are missing."""


@dataclass(frozen=True)
class Curves:
    """The columns of the metrics that one chart of curves shows."""

    caption: Caption
    columns: Mapping[str, str]
    """Names in the legend, by column."""
    references: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names in the legend of columns that results are compared with, by column."""
    top: float | None = None
    """See `line_chart`."""
    zero: bool = True
    """See `line_chart`."""


LEARNING = (
    Curves(
        Caption("Training loss", "nats", "A head that has learnt nothing is at ln k."),
        {"loss": "loss"},
        references={"ln_k": "ln k"},
    ),
    Curves(
        Caption(
            "NMI of the clusters",
            "0 to 1",
            "With the clusters of the epoch before, which shows how stable they are, and with the "
            "true labels, which are never used to learn.",
        ),
        {"nmi_previous": "previous clusters", "nmi_labels": "true labels"},
        top=1.0,
    ),
    Curves(
        Caption(
            "Reassigned images",
            "share of all",
            "Images that came to their cluster without most of its other images.",
        ),
        {"moved_fraction": "reassigned"},
        top=1.0,
    ),
    Curves(
        Caption("Cluster sizes", "images", "Empty clusters are left out."),
        {"largest_cluster": "largest", "median_cluster": "median", "smallest_cluster": "smallest"},
        zero=False,
    ),
    Curves(
        Caption(
            "Clusters in use",
            "clusters",
            "Effective: the number of clusters of equal size that would be as spread out.",
        ),
        {"effective_clusters": "effective", "empty_clusters": "empty"},
        references={"k": "k"},
    ),
    Curves(
        Caption(
            "Agreement with the true labels",
            "1 is full, 0 is chance",
            "Accuracy: images in the one cluster that is matched with their class; many clusters "
            "for each class make it small. AMI and ARI are corrected for chance.",
        ),
        {"accuracy": "accuracy", "ami": "AMI", "ari": "ARI"},
        top=1.0,
    ),
    Curves(
        Caption(
            "Agreement without labels",
            "0 to 1",
            "Views: images whose first two views have the same nearest prototype. Clusterings: NMI "
            "of two clusterings of the same images, begun differently.",
        ),
        {"view_agreement": "views of an image", "head_agreement": "two clusterings"},
        top=1.0,
    ),
    Curves(
        Caption(
            "Participation ratio of the features",
            "directions",
            "Directions that share the variance, in the metrics effective_rank. Features that "
            "collapse lie along one or two.",
        ),
        {"effective_rank": "participation ratio"},
    ),
    Curves(
        Caption(
            "RankMe",
            "directions",
            f"How evenly the features use their directions, their mean included. {ABOUT_RANK}",
        ),
        {"rankme": "RankMe"},
    ),
    Curves(
        Caption(
            "Decay of the eigenvalues",
            "alpha",
            "How fast the variance falls from one direction to the next. Near 1 is said to be "
            "healthy; the larger, the fewer directions matter.",
        ),
        {"alpha": "alpha"},
    ),
)
PACE = Caption("Pace of each stage", "images a second")
_TIME_SUFFIX = "_s"
_PACE_SUFFIX = "_images_per_s"


def metric_charts(rows: Sequence[Row], sizes: Chart | None) -> list[Chart]:
    """Return the charts of learning, in the order of the page.

    Of a single epoch, curves are dots that say less than a table: see `single_values`.

    Args:
        rows: metrics of its epochs, at least one row.
        sizes: the chart of all cluster sizes, if there is one.
    """
    # A chart without known values is left out.
    curves = [_curves(rows, curves) for curves in LEARNING] if len(rows) > 1 else []
    return [chart for chart in (*curves, sizes) if chart is not None]


def cost_charts(rows: Sequence[Row]) -> list[Chart]:
    """Return the charts of the time that the run took; `rows` as for `metric_charts`."""
    charts = [_stage_times(rows), _pace(rows)]
    return [chart for chart in charts if chart is not None]


def single_values(row: Row) -> list[list[object]]:
    """Return what the curves would show of a run's only epoch: title, name, value and unit."""
    found: list[list[object]] = []
    for curves in LEARNING:
        for column, name in {**curves.columns, **curves.references}.items():
            if known(row.get(column)):
                found.append([curves.caption.title, name, row[column], curves.caption.unit])
    return found


def sizes_chart(counts: Sequence[int], epoch: int) -> Chart:
    """Return the chart of all cluster sizes of an epoch."""
    caption = Caption(
        f"Sizes of all clusters, epoch {epoch}",
        "images",
        "The steeper the curve, the more a few clusters dominate. Training draws from all clusters "
        "equally.",
    )
    return size_histogram(caption, counts)


def seconds_of(rows: Sequence[Row]) -> float:
    """Return the total time of all stages in these epochs, seconds."""
    return sum(_stage_seconds(rows).values())


def _stage_seconds(rows: Sequence[Row]) -> dict[str, float]:
    """Return the total time of each stage in these epochs, seconds."""
    total_s: dict[str, float] = {}
    for row in rows:
        for column, seconds in row.items():
            is_time = column.endswith(_TIME_SUFFIX) and not column.endswith(_PACE_SUFFIX)
            # Metrics that an earlier version wrote may lack times.
            if is_time and known(seconds):
                stage = column.removesuffix(_TIME_SUFFIX)
                total_s[stage] = total_s.get(stage, 0.0) + seconds
    return total_s


def _curves(rows: Sequence[Row], curves: Curves) -> Chart | None:
    series = [_series(rows, column, name) for column, name in curves.columns.items()]
    for column, name in curves.references.items():
        series.append(_series(rows, column, name, reference=True))
    return line_chart(
        curves.caption,
        _epochs(rows),
        series,
        top=curves.top,
        zero=curves.zero,
    )


def _stage_times(rows: Sequence[Row]) -> Chart:
    """Return the chart of the time that each stage of each epoch took."""
    caption = Caption("Time of each stage", "seconds", f"{duration(seconds_of(rows))} in all.")
    stages = _stage_seconds(rows)
    layers = [_series(rows, f"{stage}{_TIME_SUFFIX}", stage) for stage in stages]
    return stacked_bars(caption, _epochs(rows), layers)


def _pace(rows: Sequence[Row]) -> Chart | None:
    """Return the chart of the images a second of each stage."""
    columns = [column for column in rows[-1] if column.endswith(_PACE_SUFFIX)]
    names = {column: column.removesuffix(_PACE_SUFFIX) for column in columns}
    return _curves(rows, Curves(PACE, names, zero=False))


def _epochs(rows: Sequence[Row]) -> list[int]:
    return [row["epoch"] for row in rows]


def _series(
    rows: Sequence[Row],
    column: str,
    name: str,
    *,
    reference: bool = False,
) -> Series:
    values = [row.get(column) for row in rows]
    return Series(name, values, reference)
