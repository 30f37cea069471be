"""A run of many epochs with empty artifacts, to time commands that visit all of its artifacts."""

from pathlib import Path

from deepcluster_core.artifacts.commit import new_artifact, prune
from deepcluster_core.artifacts.file_names import METRICS
from deepcluster_core.artifacts.tables import write_metrics
from deepcluster_core.context import Context
from deepcluster_core.stage import digests_of
from stages.runs.folder import RunFolder
from stages.runs.plan import plan
from stages.runs.recipe import load_recipe, save_recipe

ROW = {f"column_{number:02d}": number / 7 for number in range(35)}
"""A row with as many columns as the metrics of an epoch."""


def write_run(root: Path, recipe: Path, *, epochs: int) -> RunFolder:
    """Write a run of which every artifact is there, of a few bytes each; old features are pruned.

    Of all files, only the tables of metrics can be read.

    Args:
        root: folder of the run.
        recipe: path of its recipe.
        epochs: how many.
    """
    root.mkdir(parents=True)
    folder, read = RunFolder(root), load_recipe(recipe, {"epochs": epochs})
    save_recipe(read, folder.config)
    for job in plan(folder, read, source="", epochs=epochs):
        context, inputs = Context(seed=job.seed, epoch=job.epoch), digests_of(job.inputs)
        with new_artifact(
            job.stage.identity, job.out, config=job.config, inputs=inputs, context=context
        ) as draft:
            for name in job.stage.identity.files:
                if name == METRICS:
                    write_metrics(job.out, ROW | {"loss": float(job.epoch or 0)})
                else:
                    (job.out / name).write_text(job.title)
            draft.rows = 1
    for epoch in range(epochs - (read.keep.features or epochs)):
        prune(folder.artifact("features", epoch))
    return folder
