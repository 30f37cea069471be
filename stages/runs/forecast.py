"""What a run would do before it begins: which jobs would run and why, and how long they take."""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.manifest import Condition, Manifest, inspect, read_manifest
from deepcluster_core.clustering.registry import find_clusterer
from deepcluster_core.errors import ArtifactError, DeepClusterError
from stages.runs.compute import scratch_folder
from stages.runs.epoch import STAGES
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.loop import run_epochs
from stages.runs.recipe import Recipe, changed_recipe, load_own_recipe
from stages.runs.report import Report
from stages.runs.run import Run
from stages.score import score
from stages.train import Pace, train

CACHED = "Cached"
LATEST = 5
"""Number of latest epochs of a run whose times are used."""
SIMILAR = 2.0
"""Largest ratio between the numbers of images of two runs whose times are compared."""
PROBE_STEPS = 10
"""Training steps of a probe."""


@dataclass(frozen=True)
class Expected:
    """What would happen to a job of a run."""

    job: Job
    runs: bool
    why: str
    """Why it would run, or `Cached`."""


@dataclass(frozen=True)
class Times:
    """How long stages take, as measured somewhere."""

    seconds_per_row: Mapping[str, float]
    """By the name of the stage. A row is an image; of training, an image that is drawn."""
    measured_in: str
    """Where: this run, another one, or a probe."""
    is_probe: bool = False


def expected_jobs(run: Run[Any]) -> list[Expected]:
    """Return what would happen to each job of a run, in order. Nothing is made or changed."""
    found: list[Expected] = []
    remade: set[Path] = set()
    for job in run.plan_until(run.recipe.num_epochs):
        why = _why_it_runs(job, remade)
        if why is not None:
            remade.add(job.out)
        found.append(Expected(job, runs=why is not None, why=why or CACHED))
    return found


def _why_it_runs(job: Job, remade: set[Path]) -> str | None:
    """Return why a job would run; None if its artifact is reused.

    Args:
        job: the job.
        remade: folders of the artifacts of earlier jobs that would run.
    """
    condition, reason = inspect(job.out)
    if condition is Condition.MISSING:
        return "it is not made yet"
    if condition not in (Condition.WHOLE, Condition.PRUNED):
        return f"it is {condition}: {reason}"
    if not remade.isdisjoint(value for value in job.inputs.values() if isinstance(value, Path)):
        return "an earlier stage does; Cached if that gives the same contents"
    try:
        is_current = read_manifest(job.out).key == job.key()
    except ArtifactError as error:
        return str(error).splitlines()[0]
    return None if is_current else "it was made from other inputs or settings"


def seconds_left(expected: Iterable[Expected], times: Times, recipe: Recipe, images: int) -> float:
    """Return how many seconds the jobs that run would take; those without a time count as none."""
    draws = Pace.of(recipe.train, num_images=images).num_draws
    total = 0.0
    for one in expected:
        if one.runs:
            name = one.job.stage.name
            rows = draws if name == train.name else images
            total += rows * times.seconds_per_row.get(name, 0.0)
    return total


def past_times(folder: RunFolder, recipe: Recipe, images: int) -> Times | None:
    """Return the times of this run or, if it has no whole epoch, of a similar one beside it.

    Similar is a run with the same network and about as many images. None if there is no such run.
    """
    own = _times_of(folder)
    if _covers(own, recipe):
        return Times(own, "the epochs that this run has")
    for config in sorted(folder.root.absolute().parent.glob("*/config.yaml")):
        other = RunFolder(config.parent)
        if not _is_similar(other, recipe, images):
            continue
        found = _times_of(other)
        if _covers(found, recipe):
            return Times(found, f"{other.root.name}, a run beside it of the same network")
    return None


def _covers(times: Mapping[str, float], recipe: Recipe) -> bool:
    """Return whether times are those of a whole epoch, of which score is the last stage.

    A run that was stopped in its first epoch has no time of the training, which takes longest.
    """
    return score.name in times and (train.name in times or not recipe.trains)


def _is_similar(other: RunFolder, recipe: Recipe, images: int) -> bool:
    """Return whether a run has the same network and about as many images."""
    try:
        its = load_own_recipe(other.config)
        rows = read_manifest(other.images(its.images)).rows
    except DeepClusterError:
        return False  # it cannot be read, or has not been begun
    is_same_network = its.network == recipe.network
    is_same_machine = its.compute.device == recipe.compute.device
    return is_same_network and is_same_machine and images / SIMILAR <= rows <= images * SIMILAR


def _times_of(folder: RunFolder) -> dict[str, float]:
    """Return the median seconds per row of each stage, over the latest epochs of a run."""
    measured: defaultdict[str, list[float]] = defaultdict(list)
    for manifest in _latest_manifests(folder):
        measured[manifest.stage].append(manifest.seconds / max(1, manifest.rows))
    times = {name: statistics.median(values) for name, values in measured.items()}
    # The metrics have one row, but take as long as they have images to count.
    if score.name in times and "cluster" in times:
        rows = max(manifest.rows for manifest in _latest_manifests(folder))
        times[score.name] /= rows
    return times


def _latest_manifests(folder: RunFolder) -> Iterator[Manifest]:
    """Yield the manifests of the images and of the latest epochs that can be read."""
    for stage in STAGES.values():
        epochs: Sequence[int | None] = folder.epochs(stage.kind)[-LATEST:] or [None]
        for epoch in epochs:
            artifact = folder.artifact(stage.kind, epoch)
            if inspect(artifact)[0] in (Condition.WHOLE, Condition.PRUNED):
                yield read_manifest(artifact)


def probe(recipe: Recipe, images: int) -> Times:
    """Run one short epoch in a folder that is deleted afterwards, and return its times.

    It trains for `PROBE_STEPS` steps on the first images. The times are too long where a stage
    takes long to start.

    Raises:
        DeepClusterError: the recipe cannot be run on so few images.
    """
    batch_size = Pace.of(recipe.train, num_images=images).batch_size
    few = min(images, PROBE_STEPS * batch_size)
    clusters = [
        min(k, few // 2) if isinstance(k, int) else max(2, few // 20) for k in recipe.cluster.all_k
    ]
    changes: dict[str, Any] = {
        "epochs": min(1, recipe.epochs),
        "images": None,
        "dataset": {"subset": few},
        "train": {"batch_size": batch_size, "reassign_every": 1},
        "compute": {"track": None},
    }
    if not find_clusterer(recipe.cluster.algorithm).finds_k:
        changes["cluster"] = {"k": clusters if len(clusters) > 1 else clusters[0]}
    scratch = scratch_folder(recipe.compute)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="probe-") as place:
        folder = RunFolder(Path(place) / "probe")
        small = changed_recipe(recipe, changes)
        run = Run(folder, small, Report(folder, epochs=1, echo=False))
        run_epochs(run)
        return Times(_times_of(folder), f"a probe with {few:,} images", is_probe=True)
