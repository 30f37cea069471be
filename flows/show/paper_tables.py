"""The paper's tables, and the numbers in them that runs have measured."""

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
        ConfigError: there is no table of this name, or its file is invalid.
    """
    path = config_file(f"tables/{name}.yaml")
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("tables/*.yaml")))
        raise ConfigError(f"evaluate {name}: the paper has no such table here; known: {known}.")
    values = read_yaml(path)
    try:
        table = PaperTable.model_validate(values, strict=False)
    except ValidationError as error:
        raise invalid(str(path), described(error, PaperTable)) from error
    if wrong := [m for m, cells in table.rows.items() if len(cells) != len(table.columns)]:
        raise ConfigError(f"{path}: {len(table.columns)} columns, but not so in row {wrong[0]}.")
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
    found: dict[str, dict[str, Cell]] = {}
    for column in paper.columns:
        if column.network not in (None, recipe.network.name):
            continue
        kind = f"evaluations/{column.result}"
        for epoch in run.epochs(kind):
            folder = run.artifact(kind, epoch)
            if inspect(folder)[0] is not Condition.WHOLE:
                continue
            for row in read_results(folder):
                matches = all(str(row.get(key)) == value for key, value in column.where.items())
                if matches and row[column.value] is not None:
                    cell = Cell(row[column.value], folder, *_deviations(folder, row))
                    found.setdefault(row["network"], {})[column.name] = cell
    for network, cells in found.items():
        method = f"{run.name} (of {recipe.dataset.source.name}), {network}"
        yield Row(method, tuple(cells.get(column.name) for column in paper.columns))


def _deviations(folder: Path, row: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the deviations of a row, and the file that lists them.

    A result lists them as a fact for all its networks, or in a column for each network.
    """
    if facts := read_manifest(folder).facts.get("deviations"):
        return tuple(facts), MANIFEST
    return tuple(filter(None, (row.get("deviations") or "").split("; "))), RESULTS
