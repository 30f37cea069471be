"""Find the settings of a run that differ from those its artifacts were made with."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from deepcluster_core.errors import ConfigError
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_own_recipe
from stages.runs.states import STALE, ArtifactState, states_of

KINDS = ("images", *EPOCH_KINDS)


def check_settings(folder: RunFolder, recipe: Recipe, *, update: bool) -> str:
    """Return the changed settings of a run, if existing artifacts depend on them.

    The text is empty if the run has made nothing yet, or if no artifact depends on the changes.

    Raises:
        ConfigError: existing artifacts depend on changed settings, and `update` is false.
    """
    if not folder.config.exists():
        return ""
    before = load_own_recipe(folder.config)
    # Count only artifacts that this change makes stale, not those that were stale before.
    was_stale = {state.folder for state in _stale(folder, before)}
    num_stale: Counter[str] = Counter()
    for state in _stale(folder, recipe):
        if state.folder not in was_stale:
            num_stale[state.kind] += 1
    if not num_stale:
        return ""
    changed = _changes(before, recipe)
    if not update:
        counts = [f"{num_stale[kind]} {kind}" for kind in KINDS if num_stale[kind]]
        raise ConfigError(
            f"{folder.root}: was begun with different settings.\n"
            f"  Changed: {changed}\n"
            f"  Artifacts that would be made again, and replaced: {', '.join(counts)}.\n"
            f"  Fix:     another --run keeps both; --update (the flow's parameter `update`) "
            f"replaces them."
        )
    return changed


def _stale(folder: RunFolder, recipe: Recipe) -> list[ArtifactState]:
    """Return the artifacts of a run that a recipe would make differently."""
    return [state for state in states_of(folder, recipe) if state.condition == STALE]


def _changes(before: Recipe, now: Recipe) -> str:
    """Return as text the keys that differ between two recipes, such as `cluster.k 100 -> 50`."""
    old_values = _flat(before.model_dump(mode="json"))
    new_values = _flat(now.model_dump(mode="json"))
    changes: list[str] = []
    for key, new in new_values.items():
        # No artifact depends on the number of epochs, or on where a run computes.
        if key == "epochs" or key.startswith("compute."):
            continue
        old = old_values.get(key)
        if old != new:
            changes.append(f"{key} {old} -> {new}")
    return ", ".join(changes) or "the contents of a file that the recipe names"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their full key, such as `cluster.k`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
