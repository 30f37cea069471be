"""The artifacts of a run, and the condition that each is in."""

from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.manifest import (
    Condition,
    Manifest,
    dump_sections,
    inspect,
    read_manifest,
)
from deepcluster_core.artifacts.mirrored import compare_all
from deepcluster_core.errors import ArtifactError
from stages.index import index
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.plan import plan
from stages.runs.recipe import Recipe, load_own_recipe

STALE = "stale"


@dataclass(frozen=True)
class ArtifactState:
    """One artifact on disk. Without a manifest, `bytes` and `rows` are 0 and `key` is empty."""

    kind: str
    epoch: int | None
    folder: Path
    condition: str
    """A `Condition`, or `stale`: made from inputs or settings that have changed since."""
    reason: str
    bytes: int = 0
    rows: int = 0
    key: str = ""


def states_of(
    folder: RunFolder, recipe: Recipe | None = None, *, since: int = 0
) -> list[ArtifactState]:
    """Return the artifacts of a run in the order of the data: the images, then epoch by epoch.

    Args:
        folder: folder of the run.
        recipe: recipe that the artifacts are compared with; None for the run's own.
        since: first epoch to look at; artifacts of earlier ones are assumed not to be stale.

    Raises:
        ConfigError: the folder does not hold a run: its config.yaml is missing or invalid.
    """
    recipe = recipe or load_own_recipe(folder.config)
    epochs: set[int] = set()
    for kind in EPOCH_KINDS:
        epochs.update(folder.epochs(kind))
    num_epochs = max(epochs, default=-1) + 1
    # Jobs come in the order of the data, so the stale inputs of an artifact are already known.
    stale: set[Path] = set()
    states: list[ArtifactState] = []
    planned = plan(folder, recipe, source=None, epochs=num_epochs)
    compare_all(job.out for job in planned)
    for job in planned:
        if job.epoch is not None and job.epoch < since:
            continue
        state = _state(job, stale)
        states.append(state)
        if state.condition == STALE:
            stale.add(job.out)
    return states


def _state(job: Job, stale: set[Path]) -> ArtifactState:
    """Return the state of the artifact that a job makes, given the stale artifacts before it."""
    condition, reason = inspect(job.out)
    if condition not in (Condition.WHOLE, Condition.PRUNED):
        return ArtifactState(job.stage.kind, job.epoch, job.out, condition, reason)
    manifest = read_manifest(job.out)
    parents = {value for value in job.inputs.values() if isinstance(value, Path)}
    # Whatever was made from a stale artifact is stale too.
    if parents & stale or _is_stale(job, manifest):
        condition, reason = STALE, "made from inputs or settings that have changed since"
    return ArtifactState(
        job.stage.kind,
        job.epoch,
        job.out,
        condition,
        reason,
        bytes=0 if manifest.pruned else manifest.bytes,
        rows=manifest.rows,
        key=manifest.key,
    )


def _is_stale(job: Job, manifest: Manifest) -> bool:
    """Return whether an artifact has a different key, or was made with different settings."""
    # The key of the images includes the fingerprint of the source, which only a run computes.
    if job.stage is index:
        return manifest.config != dump_sections(job.config)
    try:
        return job.key() != manifest.key
    except ArtifactError:
        return False  # an input is missing, so there is no key to compare with
