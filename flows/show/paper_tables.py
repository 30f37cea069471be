"""The paper's tables, and what runs have measured of them."""

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
    """A column of a table, and where our number for it stands."""

    name: str
    """As in the paper."""
    result: str
    """Name of a result in `evaluations/` of a run."""
    value: str
    """Column of that result."""
    where: dict[str, str]
    """What other columns of its row must hold."""
    network: str | None = None
    """What the run must train, `network.name` of its recipe; None where any will do."""


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
    """Folder that it is from."""
    deviations: tuple[str, ...]
    """In what it is not the paper's protocol."""
    named_in: str
    """File of the result that names them."""


@dataclass(frozen=True)
class Row:
    """A network of a run, in a table of the paper."""

    method: str
    cells: tuple[Cell | None, ...]
    """One a column; None where it was not measured."""


def measured(paper: PaperTable, run: RunFolder) -> Iterator[Row]:
    """Yield a row for each network that a run's results compare: what it is, and what is known.

    Networks: the random one, those after epochs, and a supervised one. Where results of several
    epochs tell of the same network, the latest counts.
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
                is_it = all(str(row.get(key)) == value for key, value in column.where.items())
                if is_it and row[column.value] is not None:
                    cell = Cell(row[column.value], folder, *_deviations(folder, row))
                    found.setdefault(row["network"], {})[column.name] = cell
    for network, cells in found.items():
        method = f"{run.name} (of {recipe.dataset.source.name}), {network}"
        yield Row(method, tuple(cells.get(column.name) for column in paper.columns))


def _deviations(folder: Path, row: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the deviations that a result names, and where: as a fact of all or by network."""
    if facts := read_manifest(folder).facts.get("deviations"):
        return tuple(facts), MANIFEST
    return tuple(filter(None, (row.get("deviations") or "").split("; "))), RESULTS
