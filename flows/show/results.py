"""What `deepcluster evaluate` prints of a result, or of those of a sweep."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from deepcluster_core.artifacts.manifest import MANIFEST, read_manifest
from deepcluster_core.text import printable, python_text
from flows.show.run import console_for_tables, program_name, shell_path, short
from flows.show.sweep_values import REFERENCES, TRAINED, evaluated
from stages.evaluations.shared.results import PROTOCOL, RESULTS, read_results
from stages.runs.folder import RunFolder
from stages.runs.sweep_plan import RUNS, SWEEP, is_sweep, open_sweep

ROWS_SHOWN = 60


def show_evaluation(folder: Path, result: str, epoch: int | None) -> None:
    """Print what the flow `evaluate` has made.

    Args:
        folder: that it returned.
        result: name of the result in `evaluations/`.
        epoch: that was evaluated; None: the last one.

    Raises:
        ArtifactError: a table is missing or damaged.
        ConfigError: a run of a sweep is gone.
    """
    if is_sweep(folder):
        show_by_k(folder, result, epoch)
    else:
        show_each(folder)


def show_each(folder: Path) -> None:
    """Print the table of an evaluation or, where `evaluate --out` wrote one for each run, of all.

    Raises:
        ArtifactError: one is missing or damaged.
    """
    found = [folder] if (folder / MANIFEST).exists() else sorted(folder.glob(RUNS))
    for one in found or [folder]:
        if one != folder:
            console_for_tables().print(f"\n{short(one)}", markup=False)
        show_results(one)


def show_results(folder: Path) -> None:
    """Print the table of an evaluation, and what lies in its folder.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    rows = read_results(folder)
    console = console_for_tables()
    console.print()
    console.print(results_table(rows[:ROWS_SHOWN]))
    if len(rows) > ROWS_SHOWN:
        console.print(f"… and {len(rows) - ROWS_SHOWN:,} more rows")
    place = short(folder)
    console.print(f"\nprotocol {rows[0][PROTOCOL][:12]}, all of it in {place}/_manifest.json")
    console.print(f"  pd.read_parquet({python_text(f'{place}/{RESULTS}')})", markup=False)
    run = RunFolder(folder.parent.parent.parent)  # unless --out put it elsewhere
    if folder.parent.parent.name == "evaluations" and run.config.exists():
        console.print(
            f"  {program_name()} report {shell_path(run.root)}     shows it on the page",
            markup=False,
        )
    for name in sorted(read_manifest(folder).files):
        if name != RESULTS:
            console.print(f"  {place}/{name}", markup=False)


def show_by_k(root: Path, result: str, epoch: int | None) -> None:
    """Print what an evaluation says about the runs of a sweep, a row for each k, and where it lies.

    Args:
        root: folder of the sweep.
        result: name of the result in the runs' `evaluations/`.
        epoch: that was evaluated; None: the last of which every run has a result.

    Raises:
        ArtifactError: a table is missing or damaged.
        ConfigError: a run is gone.
    """
    sweep, kind = open_sweep(RunFolder(root)), f"evaluations/{result}"
    runs = [member.folder for member in sweep.members]
    epochs = set(range(sweep.epochs)).intersection(*(run.epochs(kind) for run in runs))
    until = max(epochs) if epoch is None else epoch
    console, place = console_for_tables(), short(root)
    console.print(f"\n{place}: {printable(result)} after epoch {until}\n", markup=False)
    table = evaluated(sweep).table.query("result == @result and epoch == @until")
    if len(table):
        console.print(results_table(_by_k(table)))
        console.print(f"\n  {place}/sweep.png     the same as curves", markup=False)
        console.print(f"  pd.read_parquet({python_text(f'{place}/{SWEEP}')})", markup=False)
    for run in runs:
        console.print(f"  {short(run.artifact(kind, until))}", markup=False)


def _by_k(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row for each k, and first one for each network that is the same for all."""
    unknown = dict.fromkeys(table["measure"])
    references = [name for name in REFERENCES if name in set(table["network"])]
    rows: dict[str, dict[str, Any]] = {name: {"k": name} | unknown for name in references}
    for one in table.to_dict("records"):
        name = f"{one['k']:,}" if one["network"] == TRAINED else one["network"]
        rows.setdefault(name, {"k": name} | unknown)[one["measure"]] = one["value"]
    return list(rows.values())


def results_table(rows: list[dict[str, Any]]) -> Table:
    """Return rows of a result as a table, without the column of the protocol."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name for name in rows[0] if name != PROTOCOL]
    for name in names:
        is_text = any(isinstance(row[name], str) for row in rows)
        table.add_column(re.sub("[_ ]", "\n", name), justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(_result_cell(row[name]) for name in names))
    return table


def _result_cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"
    return printable(f"{value:,}" if isinstance(value, int) else str(value))
