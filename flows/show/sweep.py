"""What `deepcluster show` prints about a sweep, as the command `sweep` does when it ends."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from deepcluster_core.text import duration, python_text, three_decimals
from flows.show.terminal import (
    console_for_tables,
    count_of_epochs,
    program_name,
    shell_path,
    short,
    table_of_numbers,
)
from stages.runs.sweep_plan import SWEEP, read_sweep, run_of_k

COMPARED = (
    *("k", "loss", "  ln k", "NMI\nbefore", "NMI\nlabels"),
    *("effective\nclusters", "   empty\nclusters", "    all\n epochs"),
)
"""Column headers of the table that compares the runs of a sweep."""


def show_sweep(folder: Path) -> None:
    """Print a row for each k of a sweep: the metrics of the last epoch, and the time of all epochs.

    Args:
        folder: folder of the sweep.

    Raises:
        ArtifactError: the table of the sweep is missing or damaged.
    """
    found = read_sweep(folder)
    last = max(row["epoch"] for row in found)
    # The time of all epochs, and the metrics of the last one.
    seconds: defaultdict[int, float] = defaultdict(float)
    last_rows: list[dict[str, Any]] = []
    for row in found:
        seconds[row["k"]] += row["seconds"]
        if row["epoch"] == last:
            last_rows.append(row)
    rows = [_compared(row, seconds[row["k"]]) for row in last_rows]
    console = console_for_tables()
    sweep = short(folder)
    epochs = count_of_epochs(last + 1)
    console.print(f"\n{sweep}: after {epochs}\n", markup=False)
    console.print(table_of_numbers(COMPARED, rows))
    # What to look at next, with the largest k as the example of a run.
    table = python_text(f"{sweep}/{SWEEP}")
    largest_k = max(seconds)
    largest_run = shell_path(folder / run_of_k(largest_k))
    program = program_name()
    console.print(
        f"\n  {sweep}/sweep.png     the effect of k\n"
        f"  pd.read_parquet({table})     all metrics of all epochs\n"
        f"  {program} show {largest_run}     one of the runs",
        markup=False,
    )


def _compared(row: dict[str, Any], seconds: float) -> tuple[str, ...]:
    """Return the cells of a run of a sweep under `COMPARED`.

    Args:
        row: metrics of its last epoch.
        seconds: time that all of its epochs took.
    """
    return (
        f"{row['k']:,}",
        three_decimals(row["loss"]),
        three_decimals(row["ln_k"]),
        three_decimals(row["nmi_previous"]),
        three_decimals(row["nmi_labels"]),
        f"{row['effective_clusters']:,.1f}",
        f"{row['empty_clusters']:,.0f}",
        duration(seconds),
    )
