"""A run of many epochs with empty artifacts, to time commands that visit all of its artifacts."""

from pathlib import Path

from deepcluster_core.artifacts.commit import new_artifact, prune
from deepcluster_core.artifacts.file_names import METRICS
from deepcluster_core.artifacts.tables import write_metrics
from deepcluster_core.context import Context
from deepcluster_core.stage import digests_of
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.plan import plan
from stages.runs.recipe import load_recipe, save_recipe

ROW = {f"column_{number:02d}": number / 7 for number in range(35)}
"""A row with as many columns as the metrics of an epoch."""


def write_run(root: Path, recipe: Path, *, epochs: int) -> RunFolder:
    """Write a complete run whose artifacts have a few bytes each; old features are pruned.

    Only the tables of metrics are valid files.

    Args:
        root: folder of the run.
        recipe: path of its recipe.
        epochs: number of epochs.
    """
    root.mkdir(parents=True)
    folder = RunFolder(root)
    loaded = load_recipe(recipe, {"epochs": epochs})
    save_recipe(loaded, folder.config)
    for job in plan(folder, loaded, source="", epochs=epochs):
        _write_artifact(job)
    # As a run does: the features of the last `keep.features` epochs stay, or all of them.
    num_kept = loaded.keep.features or epochs
    for epoch in range(epochs - num_kept):
        prune(folder.artifact("features", epoch))
    return folder


def _write_artifact(job: Job) -> None:
    """Write and commit an artifact with the files that the job's stage would write."""
    context = Context(seed=job.seed, epoch=job.epoch)
    inputs = digests_of(job.inputs)
    identity = job.stage.identity
    with new_artifact(
        identity, job.out, config=job.config, inputs=inputs, context=context
    ) as draft:
        for name in identity.files:
            if name == METRICS:
                write_metrics(job.out, ROW | {"loss": float(job.epoch or 0)})
            else:
                (job.out / name).write_text(job.title)
        draft.rows = 1
