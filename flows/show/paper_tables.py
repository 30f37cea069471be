"""The paper's tables, and the numbers in them that runs have measured."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deepcluster_core.artifacts.manifest import MANIFEST, Condition, inspect, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.config_files import CONFIGS, config_file
from deepcluster_core.config_problems import described, invalid
from deepcluster_core.config_yaml import read_yaml
from deepcluster_core.errors import ConfigError
from stages.evaluations.shared.results import RESULTS, read_results
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_own_recipe

Cells = tuple[float | None, ...]


class Column(StrictConfig):
    """A column of a table, and where our number for it is found."""

    name: str
    """Name of the column in the paper."""
    result: str
    """Name of the result in `evaluations/` of a run."""
    value: str
    """Column of the result that holds the number."""
    where: dict[str, str]
    """Values that other columns must have in the row of the number."""
    network: str | None = None
    """Network that the run must train, `network.name` of its recipe; None for any."""


class PaperTable(StrictConfig):
    """A table of the paper."""

    title: str
    unit: str
    columns: tuple[Column, ...]
    rows: dict[str, Cells]
    """For each method a number per column; None where the paper gives none."""


def load_table(name: str) -> PaperTable:
    """Return a table of the paper.

    Raises:
        ConfigError: the table is unknown, or its file is invalid.
    """
    path = config_file(f"tables/{name}.yaml")
    if not path.exists():
        tables = sorted(file.stem for file in CONFIGS.glob("tables/*.yaml"))
        known = ", ".join(tables)
        raise ConfigError(f"evaluate {name}: unknown table.\n  Fix: choose one of {known}.")
    values = read_yaml(path)
    try:
        table = PaperTable.model_validate(values, strict=False)
    except ValidationError as error:
        raise invalid(str(path), described(error, PaperTable)) from error
    # pydantic checks the cells, but not that each row has one for each column.
    num_columns = len(table.columns)
    for method, cells in table.rows.items():
        if len(cells) != num_columns:
            raise ConfigError(
                f"{path}: the row {method} has {len(cells)} cells, but the table has "
                f"{num_columns} columns."
            )
    return table


@dataclass(frozen=True)
class Cell:
    """A number that a run has measured."""

    value: float
    result: Path
    """Folder of the result that the number is from."""
    deviations: tuple[str, ...]
    """Deviations from the paper's protocol."""
    named_in: str
    """File of the result that lists the deviations."""


@dataclass(frozen=True)
class Row:
    """A network of a run as a row in a table of the paper."""

    method: str
    cells: tuple[Cell | None, ...]
    """One cell per column; None where nothing was measured."""


def measured(paper: PaperTable, run: RunFolder) -> Iterator[Row]:
    """Yield a row for each network in the results of a run, with the cells that were measured.

    The networks are the random one, those after an epoch, and a supervised one. If the results of
    several epochs contain a network, its numbers are those of the latest epoch.
    """
    recipe = load_own_recipe(run.config)
    found: defaultdict[str, dict[str, Cell]] = defaultdict(dict)
    for column in paper.columns:
        if column.network not in (None, recipe.network.name):
            continue
        # Later epochs come later, and replace the cells of earlier ones.
        for network, cell in _cells(column, run):
            found[network][column.name] = cell
    source = recipe.dataset.source.name
    for network, cells in found.items():
        method = f"{run.name} (of {source}), {network}"
        in_order = [cells.get(column.name) for column in paper.columns]
        yield Row(method, tuple(in_order))


def _cells(column: Column, run: RunFolder) -> Iterator[tuple[str, Cell]]:
    """Yield each number that a run has for a column, after the name of its network."""
    kind = f"evaluations/{column.result}"
    for epoch in run.epochs(kind):
        folder = run.artifact(kind, epoch)
        condition, _ = inspect(folder)
        if condition is not Condition.WHOLE:
            continue
        for row in read_results(folder):
            if not _matches(row, column.where):
                continue
            value = row[column.value]
            if value is not None:
                deviations, named_in = _deviations(folder, row)
                yield row["network"], Cell(value, folder, deviations, named_in)


def _matches(row: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    """Return whether a row has all required values."""
    for column, wanted in where.items():
        # As text, because the columns of a result can hold numbers.
        if str(row.get(column)) != wanted:
            return False
    return True


def _deviations(folder: Path, row: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the deviations of a row, and the file that lists them.

    A result lists them as a fact for all its networks, or in a column for each network.
    """
    if facts := read_manifest(folder).facts.get("deviations"):
        return tuple(facts), MANIFEST
    text = row.get("deviations") or ""  # can be null
    deviations = [deviation for deviation in text.split("; ") if deviation]
    return tuple(deviations), RESULTS
