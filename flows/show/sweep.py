"""What `deepcluster show` prints about a sweep, as the command `sweep` does when it ends."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console

from deepcluster_core.text import duration, known, printable, python_text, three_decimals
from flows.show.sweep_agreement import (
    NAMES,
    agreements,
    equal_in_all,
    labelled_measure,
    remark_on,
)
from flows.show.terminal import (
    console_for_tables,
    count_of_epochs,
    program_name,
    shell_path,
    short,
    table_of_numbers,
)
from stages.runs.sweep_plan import SWEEP, Value, axis_of, folder_name_of, read_sweep

COMPARED = (
    *("loss", "  ln k", "NMI\nbefore", "NMI\nlabels"),
    *("effective\nclusters", "   empty\nclusters", "    all\n epochs"),
)
"""Column headers of the table that compares the runs of a sweep, after that of the varied key."""
WITHOUT_LABELS = ("effective_rank", "rankme", "alpha", "view_agreement", "head_agreement")
"""Measures without labels, which are shown if a run has them."""


def show_sweep(folder: Path) -> None:
    """Print a row for each run of a sweep: metrics of the last epoch, and the time of all epochs.

    Below, Kendall's tau tells which measure without labels orders the runs as labels do.

    Args:
        folder: folder of the sweep.

    Raises:
        ArtifactError: the table of the sweep is missing or damaged.
    """
    found = read_sweep(folder)
    last = max(row["epoch"] for row in found)
    axis = axis_of(found)
    # The time of all epochs, and the metrics of the last one.
    seconds: defaultdict[Value, float] = defaultdict(float)
    last_rows: list[dict[str, Any]] = []
    for row in found:
        seconds[row[axis]] += row["seconds"]
        if row["epoch"] == last:
            last_rows.append(row)
    rows = [(_value(row[axis]), *_compared(row, seconds[row[axis]])) for row in last_rows]
    console = console_for_tables()
    sweep = short(folder)
    is_trained = any(known(row["loss"]) for row in last_rows)
    state = f"after {count_of_epochs(last + 1)}" if is_trained else "of the network as it begins"
    console.print(f"\n{sweep}: {state}\n", markup=False)
    console.print(table_of_numbers((printable(axis), *COMPARED), rows))
    _print_measures(last_rows, axis, console)
    # What to look at next, with the last run, which has the largest k, as the example of one.
    table = python_text(f"{sweep}/{SWEEP}")
    last_run = shell_path(folder / folder_name_of(axis, last_rows[-1][axis]))
    program = program_name()
    console.print(
        f"\n  {sweep}/sweep.png     the effect of {axis}\n"
        f"  pd.read_parquet({table})     all metrics of all epochs\n"
        f"  {program} show {last_run}     one of the runs",
        markup=False,
    )


def _value(value: Value) -> str:
    """Return the value of the varied key as a cell."""
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def _print_measures(rows: list[dict[str, Any]], axis: str, console: Console) -> None:
    """Print the measures without labels beside one with labels, and how they order the runs."""
    # Tables of an earlier version have none of them.
    shown = [name for name in WITHOUT_LABELS if any(known(row.get(name)) for row in rows)]
    if not shown:
        return
    labelled = labelled_measure(rows)
    headers = [printable(axis), *(NAMES[name].replace(" ", "\n") for name in shown)]
    if labelled is not None:
        headers.append(labelled[1].replace(" ", "\n"))
    cells: list[tuple[str, ...]] = []
    for row in rows:
        numbers = [row.get(name) for name in shown]
        if labelled is not None:
            numbers.append(row[labelled[0]])
        cells.append((_value(row[axis]), *map(three_decimals, numbers)))
    console.print()
    console.print(table_of_numbers(tuple(headers), cells))
    found = [] if labelled is None else list(agreements(rows, labelled[0]))
    if labelled is None or not found:
        return
    remark = remark_on(len(rows), labelled[0])
    console.print(f"\nAgreement with {labelled[1]}, over {remark}\n", markup=False)
    taus = [(one.name, f"{one.tau:+.2f}", str(one.num_runs)) for one in found]
    console.print(table_of_numbers(("measure without labels", "tau", "runs"), taus))
    if equal := equal_in_all(rows):
        console.print(f"equal in all runs, so left out: {', '.join(equal)}", markup=False)


def _compared(row: dict[str, Any], seconds: float) -> tuple[str, ...]:
    """Return the cells of a run of a sweep under `COMPARED`.

    Args:
        row: metrics of its last epoch.
        seconds: time that all of its epochs took.
    """
    return (
        three_decimals(row["loss"]),
        three_decimals(row["ln_k"]),
        three_decimals(row["nmi_previous"]),
        three_decimals(row["nmi_labels"]),
        f"{row['effective_clusters']:,.1f}",
        f"{row['empty_clusters']:,.0f}",
        duration(seconds),
    )
