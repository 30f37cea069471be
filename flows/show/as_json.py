"""What `--json` prints: the fields of docs/reference/json.md, which stay as they are.

New fields may be added; a field that changes its meaning gets a new `format`.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from deepcluster_core.artifacts.manifest import Condition, has_manifest, read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.errors import ConfigError
from flows.show.page_inputs import evaluation_folders
from flows.show.run import cluster_members
from stages.evaluations.shared.results import read_results
from stages.runs.evaluation_job import compared_epoch
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_own_recipe
from stages.runs.states import STALE, ArtifactState, states_of
from stages.runs.sweep_plan import RUNS, is_sweep, open_sweep, read_sweep

FORMAT = 1


def print_json(value: dict[str, Any]) -> None:
    """Print a value as JSON. Numbers that are not finite become null, which JSON can hold."""
    print(json.dumps({"format": FORMAT} | _plain(value), indent=2))  # noqa: T201


def _plain(value: Any) -> Any:  # noqa: ANN401  any value of JSON
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, np.generic):
        return _plain(value.item())
    return str(value) if isinstance(value, Path) else value


def run_as_json(folder: RunFolder, epoch: int | None) -> dict[str, Any]:
    """Return what `deepcluster show` knows about a run, or about one of its epochs.

    Raises:
        ConfigError: the run does not have the epoch.
    """
    recipe = load_own_recipe(folder.config)
    images: dict[str, Any] = {}
    epochs: dict[int, dict[str, Any]] = {}
    for state in states_of(folder):
        if state.epoch is None:
            images = _artifact(state)
        elif epoch in (None, state.epoch):
            found = epochs.setdefault(
                state.epoch, {"epoch": state.epoch, "metrics": None, "artifacts": {}}
            )
            found["artifacts"][state.kind] = _artifact(state)
            if state.kind == "metrics" and state.condition in (Condition.WHOLE, STALE):
                found["metrics"] = read_metrics(state.folder)
    if epoch is not None and epoch not in epochs:
        raise ConfigError(
            f"--epoch {epoch}: {folder.address} does not have it.\n  Fix: leave --epoch out."
        )
    return {
        "run": folder.root.absolute(),
        "epochs_wanted": recipe.epochs,
        "recipe": recipe.model_dump(mode="json"),
        "images": images,
        "epochs": [epochs[number] for number in sorted(epochs)],
        "evaluations": [
            {"name": name, "epoch": number, "folder": found.absolute()}
            for name, number, found in evaluation_folders(folder)
            if epoch in (None, number)
        ],
    }


def _artifact(state: ArtifactState) -> dict[str, Any]:
    made: dict[str, Any] = {"seconds": None, "digest": None}
    if state.key:
        manifest = read_manifest(state.folder)
        made = {"seconds": manifest.seconds, "digest": manifest.digest}
    return {
        "folder": state.folder.absolute(),
        "condition": str(state.condition),
        "rows": state.rows,
        "bytes": state.bytes,
        "key": state.key or None,
        **made,
    }


def cluster_as_json(
    folder: RunFolder, epoch: int | None, cluster: int, limit: int
) -> dict[str, Any]:
    """Return the images of a cluster, nearest to its centroid first.

    Raises:
        ConfigError: the epoch or the cluster does not exist.
        ArtifactError: the epoch has no labels.
    """
    rows = cluster_members(folder, epoch, cluster)
    return {
        "run": folder.root.absolute(),
        "epoch": epoch,
        "cluster": cluster,
        "size": len(rows),
        "images": rows[:limit],
    }


def sweep_as_json(folder: Path) -> dict[str, Any]:
    """Return the table of a sweep: a row for each run and epoch.

    Raises:
        ArtifactError: the table is missing or damaged.
    """
    return {"sweep": folder.absolute(), "rows": read_sweep(folder)}


def evaluation_as_json(folder: Path, result: str, epoch: int | None) -> dict[str, Any]:
    """Return the results that the flow `evaluate` has made: one, or one for each run of a sweep.

    Args:
        folder: folder that the flow returned.
        result: name of the result in `evaluations/`.
        epoch: epoch that was evaluated; None for the last one.

    Raises:
        ArtifactError: a table is missing or damaged.
    """
    results: list[dict[str, Any]] = []
    for found in _result_folders(folder, result, epoch):
        manifest = read_manifest(found)
        results.append(
            {
                "epoch": manifest.epoch,
                "folder": found.absolute(),
                "protocol": manifest.config.get("protocol"),
                "rows": read_results(found),
            }
        )
    return {"evaluation": result, "results": results}


def _result_folders(folder: Path, result: str, epoch: int | None) -> list[Path]:
    """Return the folders of the results that the flow `evaluate` has made."""
    if has_manifest(folder):
        return [folder]
    if not is_sweep(folder):  # results of a sweep that --out put elsewhere
        return sorted(folder.glob(RUNS))
    kind = f"evaluations/{result}"
    sweep = open_sweep(RunFolder(folder))
    compared = compared_epoch(sweep, epoch)
    return [member.folder.artifact(kind, compared) for member in sweep.members]
