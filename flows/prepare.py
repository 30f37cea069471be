"""From what a person asks for to a run that is ready to go. Everything is checked here first."""

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from deepcluster_core.errors import ConfigError
from flows.report import Report
from flows.run import Run
from stages.layout import RunFolder
from stages.recipe import Recipe, load_recipe, save_recipe

ON_TERMINAL: ContextVar[bool] = ContextVar("ON_TERMINAL", default=False)
"""Set where a person started the flow by hand and reads along."""


def resolve(
    recipe: str, run: str | None, epochs: int | None, overrides: Mapping[str, Any]
) -> tuple[Recipe, RunFolder]:
    """Return the recipe with everything put over it, and the folder of the run.

    Args:
        recipe: path of a YAML file.
        run: a folder, or a name for one under `runs/`; None is the recipe's name.
        epochs: instead of the recipe's.
        overrides: nested keys of the recipe.

    Raises:
        ConfigError: the recipe is wrong.
        SourceError: its images are not there.
    """
    path = Path(recipe)
    changes = dict(overrides) | ({} if epochs is None else {"epochs": epochs})
    loaded = load_recipe(path, changes)
    root = run_path(run or path.stem)
    if root.exists() and not root.is_dir():
        raise ConfigError(
            f"{root}: is a file, but a run is a folder.\n  Fix: choose another --run."
        )
    return loaded, RunFolder(root)


def run_path(run: str) -> Path:
    """Return the folder that is meant: a bare name is one under `runs/`."""
    return Path(run) if "/" in run else Path("runs") / run


def existing_run(run: str) -> RunFolder:
    """Return the folder of a run that was begun before.

    Raises:
        ConfigError: there is none.
    """
    folder = RunFolder(run_path(run))
    if not folder.config.exists():
        known = ", ".join(str(path.parent) for path in sorted(Path("runs").glob("*/config.yaml")))
        raise ConfigError(
            f"{folder.root}: is no run: it has no {folder.config.name}.\n"
            f"  Fix: give the folder of a run. Here are: {known or 'none under runs/'}."
        )
    return folder


def open_run(
    recipe: str,
    run: str | None,
    epochs: int | None,
    overrides: BaseModel | None,
    *,
    save: bool = True,
) -> Run:
    """Return a run that is ready; with `save`, its configuration written to its folder.

    Raises:
        DeepClusterError: as `resolve`.
    """
    changes = overrides.model_dump(mode="json", exclude_unset=True) if overrides else {}
    loaded, folder = resolve(recipe, run, epochs, changes)
    report = Report(folder, epochs=loaded.epochs, echo=ON_TERMINAL.get())
    opened = Run(folder, loaded, report)
    if save:
        if folder.config.exists() and (changed := _changes(load_recipe(folder.config), loaded)):
            report.say(f"other settings than before: {changed}; what depends on them is made again")
        folder.root.mkdir(parents=True, exist_ok=True)
        save_recipe(loaded, folder.config)
    return opened


def _changes(before: Recipe, now: Recipe) -> str:
    """Return in words which keys differ between two recipes, for example `cluster.k 100 -> 50`."""
    old, new = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    keys = [key for key in new if key != "epochs" and not key.startswith("compute.")]
    differing = (key for key in keys if old.get(key) != new[key])
    return ", ".join(f"{key} {old.get(key)} -> {new[key]}" for key in differing)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
