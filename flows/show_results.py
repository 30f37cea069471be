"""What `deepcluster evaluate` prints of a result."""

from pathlib import Path
from typing import Any

from rich.table import Table

from deepcluster_core.artifacts.manifest import read_manifest
from flows.show import console_for_tables, program_name, short
from flows.terminal import printable
from stages.evaluations.results import PROTOCOL, RESULTS, read_results
from stages.layout import RunFolder

ROWS_SHOWN = 60


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
    console.print(f'  pd.read_parquet("{place}/{RESULTS}")', markup=False)
    for name in sorted(read_manifest(folder).files):
        if name != RESULTS:
            console.print(f"  {place}/{name}", markup=False)
    run = RunFolder(folder.parents[2])
    if run.config.exists():
        console.print(
            f"  {program_name()} report {short(run.root)}     shows it on the page", markup=False
        )


def results_table(rows: list[dict[str, Any]]) -> Table:
    """Return rows of a result as a table, without the column of the protocol."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name for name in rows[0] if name != PROTOCOL]
    for name in names:
        is_text = any(isinstance(row[name], str) for row in rows)
        table.add_column(name.replace("_", "\n"), justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"
    return printable(f"{value:,}" if isinstance(value, int) else str(value))
