"""The charts of a run, from the metrics of its epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepcluster_core.report.charts import Chart, Line, line_chart, size_histogram, stacked_bars
from deepcluster_core.report.html import known
from deepcluster_core.text import duration

STAGES = ("train", "extract", "cluster", "score")
"""From the bottom of the bars, where most of the time goes."""

Row = Mapping[str, Any]
"""Metrics of an epoch by the names of their columns, with `epoch` and `score_s` beside them. Those
that an earlier version did not know are missing."""


def learning_charts(rows: Sequence[Row]) -> list[str]:
    """Return figures of loss, agreement, reassignments and cluster sizes over epochs."""
    epochs = [row["epoch"] for row in rows]
    loss = Chart("Training loss", "nats", epochs, "A head that has learnt nothing is at ln k.")
    agreement = Chart(
        "NMI of the clusters",
        "0 to 1",
        epochs,
        "With those of the epoch before, which says how stable they are, and with the true labels, "
        "which nothing was learnt from.",
    )
    moved = Chart(
        "Reassigned images",
        "share of all",
        epochs,
        "Images that did not come to their cluster with most of its others.",
    )
    sizes = Chart("Cluster sizes", "images", epochs, "Of the clusters that have any.")
    spread = Chart(
        "Clusters in use",
        "clusters",
        epochs,
        "Effective: how many clusters of equal size would be as spread out.",
    )
    rank = Chart(
        "Effective rank of the features",
        "directions",
        epochs,
        "Features that collapse lie along one or two.",
    )
    return [
        line_chart(loss, [_line(rows, "loss"), _line(rows, "ln_k", "ln k", reference=True)]),
        line_chart(
            agreement,
            [
                _line(rows, "nmi_previous", "previous clusters"),
                _line(rows, "nmi_labels", "true labels"),
            ],
            top=1.0,
        ),
        line_chart(moved, [_line(rows, "moved_fraction", "reassigned")], top=1.0),
        line_chart(
            sizes,
            [
                _line(rows, "largest_cluster", "largest"),
                _line(rows, "median_cluster", "median"),
                _line(rows, "smallest_cluster", "smallest"),
            ],
            zero=False,
        ),
        line_chart(
            spread,
            [
                _line(rows, "effective_clusters", "effective"),
                _line(rows, "empty_clusters", "empty"),
                _line(rows, "k", reference=True),
            ],
        ),
        line_chart(rank, [_line(rows, "effective_rank", "rank")]),
    ]


def cost_charts(rows: Sequence[Row]) -> list[str]:
    """Return figures of what each stage of each epoch took when it ran, and of its pace."""
    epochs = [row["epoch"] for row in rows]
    total_s = sum(value for row in rows for name in STAGES if known(value := row.get(f"{name}_s")))
    time = Chart("Time of each stage", "seconds", epochs, f"{duration(total_s)} in all.")
    pace = Chart("Pace of each stage", "images a second", epochs)
    lines = [_line(rows, f"{name}_images_per_s", name) for name in STAGES if name != "score"]
    return [
        stacked_bars(time, [_line(rows, f"{name}_s", name) for name in STAGES]),
        line_chart(pace, lines, zero=False),
    ]


def sizes_chart(counts: Sequence[int], epoch: int) -> str:
    """Return the figure of all cluster sizes of an epoch."""
    chart = Chart(
        f"Sizes of all clusters, epoch {epoch}",
        "images",
        [],
        "The steeper, the more a few clusters dominate. Training draws from all alike.",
    )
    return size_histogram(chart, counts)


def _line(
    rows: Sequence[Row], column: str, name: str | None = None, *, reference: bool = False
) -> Line:
    return Line(name or column, [row.get(column) for row in rows], reference)
