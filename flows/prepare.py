"""From what a person asks for to a run that is ready to go. Everything is checked here first."""

from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.permissions import why_not_writable
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import expanded, refuse_url
from flows.access import refuse_unreadable, refuse_unwritable_run
from flows.alive import bury_dead, mark_alive
from flows.report import Report
from flows.run import Run
from flows.state import STALE, states_of
from stages import index
from stages.layout import EPOCH_KINDS, RunFolder
from stages.recipe import Recipe, load_recipe, save_recipe

KINDS = ("images", *EPOCH_KINDS)
Makes = Literal["run", "artifact", "elsewhere"]
"""What a run is opened for."""
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
    refuse_url(run, "run")
    return expanded(run, Path()) if "/" in run else Path("runs") / run


def typed_run(run: Path) -> str:
    """Return the folder that a person means: one that is there or, for a bare name, `runs/NAME`.

    Raises:
        ConfigError: it is there, but may not be read.
    """
    refuse_unreadable(run)
    found = (run if run.exists() else run_path(str(run))).absolute()
    refuse_unreadable(found)
    return str(found)


def own_folder(out: Path, run: RunFolder) -> Path:
    """Return a folder for a result outside of the run it is made from, and create it.

    Raises:
        ConfigError: it lies in the run, or cannot be a folder.
    """
    if out.resolve().is_relative_to(run.root.resolve()):
        raise ConfigError(f"--out {out}: lies in the run itself.\n  Fix: give another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise ConfigError(
            f"--out {out}: cannot be made a folder ({error.strerror}).\n"
            f"  Cause: {why_not_writable(out)}\n"
            f"  Fix:   give a folder that you may write."
        ) from error
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made a folder ({error.strerror}).") from error
    return out


def existing_run(run: str) -> RunFolder:
    """Return the folder of a run that was begun before.

    Raises:
        ConfigError: there is none, or it may not be read.
    """
    folder = RunFolder(run_path(run))
    refuse_unreadable(folder.root)
    if not folder.config.exists():
        inside = sorted(folder.root.glob("*/config.yaml"))  # of a sweep, for example
        found = inside or sorted(Path("runs").glob("*/config.yaml"))
        known = ", ".join(str(path.parent) for path in found)
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
    makes: Makes = "run",
    update: bool = False,
    yes: bool = False,
) -> Run:
    """Return a run that is ready; one that is made as a whole has its configuration written.

    Args:
        recipe: as for `resolve`, like the next two.
        run: see there.
        epochs: see there.
        overrides: nested keys of the recipe.
        makes: all of the run, one artifact in it, or something elsewhere, for which the run is
            only read.
        update: replace what was made with other settings.
        yes: go on even where the run does not seem to fit on this machine.

    Raises:
        DeepClusterError: as `resolve` and, of a whole run, as `refuse_other_settings` and
            `refuse_unwritable_run`.
    """
    changes = overrides.model_dump(mode="json", exclude_unset=True) if overrides else {}
    loaded, folder = resolve(recipe, run, epochs, changes)
    report = Report(folder, epochs=loaded.epochs, echo=ON_TERMINAL.get())
    if makes == "run":
        refuse_unwritable_run(folder)
    opened = Run(folder, loaded, report, only_reads=makes == "elsewhere")
    bury_dead(opened.records)
    if makes == "run":
        if changed := refuse_other_settings(folder, loaded, update=update):
            report.say(f"other settings than before: {changed}; what depends on them is made again")
        _warn_inside_source(opened)
        _refuse_other_source(opened, update=update)
        opened.anyway = yes
        if opened.num_images is not None:
            opened.refuse_what_cannot_fit(opened.num_images)
        _write_config(loaded, folder)
    opened.alive = mark_alive(opened.records)
    return opened


def _warn_inside_source(run: Run) -> None:
    """Warn of a run among its own images, by whatever paths the two are named."""
    source, root = run.recipe.dataset.source.resolve(), run.folder.root.resolve()
    if source.is_dir() and root.is_relative_to(source):
        run.report.warn(
            f"{run.folder.root}: the run lies in the folder of its own images, "
            f"{run.recipe.dataset.source}; what it writes is not taken for images"
        )


def _refuse_other_source(run: Run, *, update: bool) -> None:
    """Refuse to replace images, and all that was made of them, because files have changed."""
    out = run.job(index, None).out
    if update or inspect(out)[0] is not Condition.WHOLE:
        return
    if read_manifest(out).inputs["source"] != run.source_fingerprint:
        raise ConfigError(
            f"{run.recipe.dataset.source}: its files have changed since {out} was made.\n"
            f"  Fix: another --run keeps both; --update (the flow's parameter `update`) indexes "
            f"them again and replaces what was made of them."
        )


def _write_config(recipe: Recipe, folder: RunFolder) -> None:
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, folder.config)
    except OSError as error:
        raise ConfigError(
            f"{folder.root}: cannot be written to ({error.strerror}).\n"
            f"  Fix: give another --run, or have the folder's permissions changed."
        ) from error


def refuse_other_settings(folder: RunFolder, recipe: Recipe, *, update: bool) -> str:
    """Return which settings of a run change, where artifacts that depend on them are there.

    Empty if there are none: a run that has made nothing yet, or keys that no artifact depends on.

    Raises:
        ConfigError: there are some, and nobody has agreed to make those artifacts again.
    """
    if not folder.config.exists():
        return ""
    before = load_recipe(folder.config)
    was_stale = {state.folder for state in states_of(folder, before) if state.condition == STALE}
    stale = [state for state in states_of(folder, recipe) if state.condition == STALE]
    again = Counter(state.kind for state in stale if state.folder not in was_stale)
    if not again:
        return ""
    changed = _changes(before, recipe)
    if not update:
        raise ConfigError(
            f"{folder.root}: was begun with other settings.\n"
            f"  Changed: {changed}\n"
            f"  Artifacts that would be made again, and replaced: "
            f"{', '.join(f'{again[kind]} {kind}' for kind in KINDS if again[kind])}.\n"
            f"  Fix:     another --run keeps both; --update (the flow's parameter `update`) "
            f"replaces them."
        )
    return changed


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
