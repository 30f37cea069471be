"""A run of many epochs whose files hold nothing: for what a command or an epoch does with all."""

from pathlib import Path

from deepcluster_core.artifacts.commit import new_artifact, prune
from deepcluster_core.context import Context
from deepcluster_core.stage import digests_of
from stages.runs.folder import RunFolder
from stages.runs.plan import plan
from stages.runs.recipe import Recipe, load_recipe, save_recipe


def write_run(root: Path, recipe: Path, *, epochs: int) -> tuple[RunFolder, Recipe]:
    """Write a run of which every artifact is there, of a few bytes each; old features are pruned.

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
                (job.out / name).write_text(job.title)
            draft.rows = 1
    for epoch in range(epochs - (read.keep.features or epochs)):
        prune(folder.artifact("features", epoch))
    return folder, read
