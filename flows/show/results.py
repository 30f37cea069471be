"""What `deepcluster evaluate` prints about a result, or about the results of a sweep."""

import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from rich.table import Table

from deepcluster_core.artifacts.manifest import has_manifest, read_manifest
from deepcluster_core.text import printable, python_text
from flows.show.sweep_values import TRAINED, evaluated
from flows.show.terminal import console_for_tables, program_name, shell_path, short
from stages.evaluations.shared.network_names import REFERENCES
from stages.evaluations.shared.results import PROTOCOL, RESULTS, read_results
from stages.runs.evaluation_job import compared_epoch
from stages.runs.folder import RunFolder
from stages.runs.sweep_plan import RUNS, SWEEP, is_sweep, open_sweep

ROWS_SHOWN = 60


def show_evaluation(folder: Path, result: str, epoch: int | None) -> None:
    """Print the result that the flow `evaluate` has made.

    Args:
        folder: folder that the flow returned.
        result: name of the result in `evaluations/`.
        epoch: epoch that was evaluated; None for the last one.

    Raises:
        ArtifactError: a table is missing or damaged.
        ConfigError: a run of a sweep is missing.
    """
    if is_sweep(folder):
        show_by_value(folder, result, epoch)
    else:
        show_each(folder)


def show_each(folder: Path) -> None:
    """Print the table of an evaluation, or all tables that `evaluate --out` wrote for a sweep.

    Raises:
        ArtifactError: a table is missing or damaged.
    """
    if has_manifest(folder):
        show_results(folder)
        return
    found = sorted(folder.glob(RUNS))
    if not found:
        show_results(folder)  # raises the error about the folder itself
    for result in found:
        console_for_tables().print(f"\n{short(result)}", markup=False)
        show_results(result)


def show_results(folder: Path) -> None:
    """Print the table of an evaluation, and the other files in its folder.

    Raises:
        ArtifactError: the table is missing or damaged.
    """
    rows = read_results(folder)
    console = console_for_tables()
    console.print()
    console.print(results_table(rows[:ROWS_SHOWN]))
    num_hidden = len(rows) - ROWS_SHOWN
    if num_hidden > 0:
        console.print(f"… and {num_hidden:,} more rows")
    place = short(folder)
    protocol = rows[0][PROTOCOL]
    console.print(f"\nprotocol {protocol[:12]}, all of it in {place}/_manifest.json")
    table = python_text(f"{place}/{RESULTS}")
    console.print(f"  pd.read_parquet({table})", markup=False)
    # RUN/evaluations/NAME/epoch=N, unless --out put the result elsewhere.
    evaluations = folder.parent.parent
    run = RunFolder(evaluations.parent)
    if evaluations.name == "evaluations" and run.config.exists():
        command = f"{program_name()} report {shell_path(run.root)}"
        console.print(f"  {command}     shows it on the page", markup=False)
    for name in sorted(read_manifest(folder).files):
        if name != RESULTS:
            console.print(f"  {place}/{name}", markup=False)


def show_by_value(root: Path, result: str, epoch: int | None) -> None:
    """Print the results of an evaluation of a sweep, a row for each run, and their folders.

    Args:
        root: folder of the sweep.
        result: name of the result in the runs' `evaluations/`.
        epoch: epoch that was evaluated; None for the last one of all runs.

    Raises:
        ArtifactError: a table is missing or damaged.
        ConfigError: a run is missing.
    """
    sweep = open_sweep(RunFolder(root))
    kind = f"evaluations/{result}"
    runs = [member.folder for member in sweep.members]
    epoch = compared_epoch(sweep, epoch)
    place = short(root)
    console = console_for_tables()
    console.print(f"\n{place}: {printable(result)} after epoch {epoch}\n", markup=False)
    table = evaluated(sweep).table.query("result == @result and epoch == @epoch")
    # Evaluations that make pictures have no numbers to compare.
    if len(table):
        console.print(results_table(_by_value(table, sweep.axis)))
        console.print(f"\n  {place}/sweep.png     these results as curves", markup=False)
        path = python_text(f"{place}/{SWEEP}")
        console.print(f"  pd.read_parquet({path})", markup=False)
    for run in runs:
        console.print(f"  {short(run.artifact(kind, epoch))}", markup=False)


def _by_value(table: pd.DataFrame, axis: str) -> list[dict[str, Any]]:
    """Return a row for each reference network, then for each value of the varied key.

    Reference networks are equal in all runs, unless the seed or the network is varied: then the
    mean over the runs is shown.
    """
    empty_cells = dict.fromkeys(table["measure"])
    records = table.to_dict("records")
    rows: dict[str, dict[str, Any]] = {}
    # Reference networks come first, so their rows are created before the others.
    for network in REFERENCES:
        of_network = [record for record in records if record["network"] == network]
        if not of_network:
            continue
        rows[network] = {axis: network, **empty_cells}
        for measure in dict.fromkeys(record["measure"] for record in of_network):
            values = [record["value"] for record in of_network if record["measure"] == measure]
            rows[network][measure] = fmean(values)
    for record in records:
        if record["network"] != TRAINED:
            continue
        value = record[axis]
        name = f"{value:,}" if isinstance(value, int) else str(value)
        row = rows.setdefault(name, {axis: name, **empty_cells})
        row[record["measure"]] = record["value"]
    return list(rows.values())


def results_table(rows: list[dict[str, Any]]) -> Table:
    """Return rows of a result as a table, without the column for the protocol."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name for name in rows[0] if name != PROTOCOL]
    for name in names:
        is_text = any(isinstance(row[name], str) for row in rows)
        header = re.sub("[_ ]", "\n", name)  # long headers take less width on several lines
        table.add_column(header, justify="left" if is_text else "right")
    for row in rows:
        cells = [_result_cell(row[name]) for name in names]
        table.add_row(*cells)
    return table


def _result_cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        # Four digits below 1, as for shares; two decimals above, as for percentages.
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(str(value))
