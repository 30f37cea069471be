"""The paper's tables, with what runs have measured beside its numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from deepcluster_core.artifacts.manifest import Condition, inspect
from deepcluster_core.config import StrictConfig
from deepcluster_core.errors import ConfigError
from flows.show import console_for_tables
from flows.terminal import printable
from stages.evaluations.results import read_results
from stages.layout import RunFolder
from stages.problems import described, invalid
from stages.recipe import load_recipe
from stages.recipe_yaml import read_yaml

TABLES = Path(__file__).parents[1] / "configs/tables"
PAPER, OURS = "paper", "ours"

Cells = tuple[float | None, ...]


class Column(StrictConfig):
    """A column of a table, and where our number for it stands."""

    name: str
    """As in the paper."""
    result: str
    """Name of a result in `evaluations/` of a run."""
    value: str
    """Column of that result."""
    where: dict[str, str]
    """What other columns of its row must hold."""


class PaperTable(StrictConfig):
    """A table as the paper has it."""

    title: str
    unit: str
    columns: tuple[Column, ...]
    rows: dict[str, Cells]
    """A number a column by method; None where the paper has none."""


def load_table(name: str) -> PaperTable:
    """Return a table of the paper.

    Raises:
        ConfigError: there is none of this name, or its file is wrong.
    """
    path = TABLES / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in TABLES.glob("*.yaml")))
        raise ConfigError(f"evaluate {name}: the paper has no such table here; known: {known}.")
    values = read_yaml(path)
    try:
        table = PaperTable.model_validate(values, strict=False)
    except ValidationError as error:
        raise invalid(str(path), described(error, PaperTable)) from error
    if wrong := [m for m, cells in table.rows.items() if len(cells) != len(table.columns)]:
        raise ConfigError(f"{path}: {len(table.columns)} columns, but not so in row {wrong[0]}.")
    return table


def show_table(name: str, runs: Sequence[RunFolder]) -> None:
    """Print the rows of the paper, then those of runs; a cell that was not measured is empty."""
    paper = load_table(name)
    console = console_for_tables()
    console.print(f"\n{paper.title}\n{paper.unit}\n", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("of")
    table.add_column("method")
    for column in paper.columns:
        table.add_column(column.name.replace(" ", "\n"), justify="right")
    for method, cells in paper.rows.items():
        table.add_row(PAPER, method, *(_cell(cell, "–") for cell in cells))
    ours = [row for run in runs for row in measured(paper, run)]
    for method, cells in ours:
        table.add_row(OURS, printable(method), *(_cell(cell, "") for cell in cells))
    console.print(table)
    if ours:
        console.print("\nColumns name the paper's data sets; ours are on those of the results.")
    else:
        results = ", ".join(dict.fromkeys(column.result for column in paper.columns))
        console.print(f"\nno run has one of the results {results} yet: deepcluster evaluate …")


def measured(paper: PaperTable, run: RunFolder) -> Iterator[tuple[str, Cells]]:
    """Yield a row for each network that a run's results compare: what it is, and what is known.

    Networks: the random one, those after epochs, and a supervised one. Where results of several
    epochs tell of the same network, the latest counts.
    """
    source = load_recipe(run.config).dataset.source.name
    found: dict[str, dict[str, float]] = {}
    for column in paper.columns:
        kind = f"evaluations/{column.result}"
        for epoch in run.epochs(kind):
            folder = run.artifact(kind, epoch)
            if inspect(folder)[0] is not Condition.WHOLE:
                continue
            for row in read_results(folder):
                if all(str(row.get(key)) == value for key, value in column.where.items()):
                    found.setdefault(row["network"], {})[column.name] = row[column.value]
    for network, values in found.items():
        yield (
            f"{run.name} (of {source}), {network}",
            tuple(values.get(c.name) for c in paper.columns),
        )


def _cell(value: float | None, absent: str) -> str:
    return absent if value is None else f"{value:.1f}"
