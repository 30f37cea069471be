"""Find the settings of a run that differ from those its artifacts were made with."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from deepcluster_core.artifacts.manifest import Condition, dump_sections, inspect, read_manifest
from deepcluster_core.errors import ArtifactError, ConfigError
from stages.extract import extract
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_own_recipe
from stages.runs.states import STALE, ArtifactState, states_of
from stages.train import train

KINDS = ("images", *EPOCH_KINDS)


def check_settings(folder: RunFolder, recipe: Recipe, *, update: bool) -> str:
    """Return the changed settings of a run, if existing artifacts depend on them.

    The text is empty if the run has made nothing yet, or if no artifact depends on the changes.

    The source is not opened.

    Args:
        folder: folder of the run.
        recipe: recipe of the run, `as_begun` or settled; what it leaves open counts as changed.
        update: do not raise an error about changed settings.

    Raises:
        ConfigError: existing artifacts depend on changed settings, and `update` is false; or the
            run has trained, and the recipe has `epochs: 0`.
    """
    if not folder.config.exists():
        return ""
    if not recipe.trains:
        _check_untrained(folder)
    before = load_own_recipe(folder.config)
    # Count only artifacts that this change makes stale, not those that were stale before.
    new_contents = _new_contents(folder, before, recipe)
    was_stale = set[Path]()
    if not new_contents:
        was_stale = {state.folder for state in _stale(folder, before)}
    num_stale: Counter[str] = Counter()
    for state in _stale(folder, recipe):
        if state.folder not in was_stale:
            num_stale[state.kind] += 1
    if not num_stale:
        return ""
    changed = ", ".join([*_changes(before, recipe), *new_contents])
    if not update:
        counts = [f"{num_stale[kind]} {kind}" for kind in KINDS if num_stale[kind]]
        raise ConfigError(
            f"{folder.address}: was begun with different settings.\n"
            f"  Changed: {changed}\n"
            f"  Artifacts that would be made again, and replaced: {', '.join(counts)}.\n"
            f"  Fix:     another --run keeps both; --update (the flow's parameter `update`) "
            f"replaces them."
        )
    return changed


def _check_untrained(folder: RunFolder) -> None:
    """Raise ConfigError if a run has trained; with `epochs: 0`, epoch 0 would be scored without."""
    for epoch in folder.epochs(train.kind):
        condition, _ = inspect(folder.artifact(train.kind, epoch))
        if condition in (Condition.WHOLE, Condition.PRUNED):
            raise ConfigError(
                f"{folder.address}: has trained epoch {epoch} already, but epochs: 0 is a run "
                f"without training.\n"
                f"  Fix: choose another --run, or leave --epochs 0 out."
            )


def _stale(folder: RunFolder, recipe: Recipe) -> list[ArtifactState]:
    """Return the artifacts of a run that a recipe would make differently."""
    return [state for state in states_of(folder, recipe) if state.condition == STALE]


def _new_contents(folder: RunFolder, before: Recipe, now: Recipe) -> list[str]:
    """Describe the files whose contents have changed since the run began.

    Their paths are the same, so that the recipes do not differ in them.
    """
    same = {
        ("network", "weights"): (before.network.weights, now.network.weights),
        ("extract", "from"): (before.extract.from_file, now.extract.from_file),
    }
    changed: list[str] = []
    for (section, key), (path_before, path) in same.items():
        if path is None or path != path_before:
            continue
        current = dump_sections({section: now.section(section)})[section][key]
        if not _are_made_from(folder, section, key, current):
            changed.append(f"the contents of {section}.{key} ({path})")
    return changed


def _are_made_from(folder: RunFolder, section: str, key: str, digest: str) -> bool:
    """Return whether the features of a run are made from a file with this digest, if any are."""
    for epoch in folder.epochs(extract.kind):
        try:
            made_from = read_manifest(folder.artifact(extract.kind, epoch)).config[section]
        except ArtifactError:
            continue  # unfinished, or damaged
        if made_from.get(key) not in (None, digest):
            return False
    return True


def _changes(before: Recipe, now: Recipe) -> list[str]:
    """Return as text the keys that differ between two recipes, such as `cluster.k 100 -> 50`."""
    new_values = now.model_dump(mode="json")
    # No artifact depends on the number of epochs, where a run computes, or what people see.
    for key in ("epochs", "compute", "report"):
        new_values.pop(key, None)
    return changed_values(before.model_dump(mode="json"), new_values)


def changed_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return as text the nested keys of `now` that have another value in `before`."""
    old_values = _flat(before)
    changes: list[str] = []
    for key, new in _flat(now).items():
        # Of another source, `dataset.deep` may be settled only when the run opens it.
        if key == "dataset.deep" and new is None:
            continue
        old = old_values.get(key)
        if old != new:
            changes.append(f"{key} {old} -> {new}")
    return changes


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their full key, such as `cluster.k`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
