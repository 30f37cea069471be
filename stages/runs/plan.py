"""The plan of a run: all its jobs, in the order in which data flows through them."""

from collections.abc import Iterator
from pathlib import Path
from typing import ParamSpec, cast

from deepcluster_core.stage import Input, StageFunction
from stages.index import index
from stages.runs.epoch import Before, one_epoch
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.recipe import Recipe

P = ParamSpec("P")


class Plan:
    """The jobs of a run by the folder of their artifact, in the order in which they were added."""

    def __init__(self, folder: RunFolder, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        self._jobs: dict[Path, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def job(self, out: Path) -> Job | None:
        """Return the job that makes an artifact, or None if no job of the run does."""
        return self._jobs.get(out)

    def place(self, stage: StageFunction[...], epoch: int | None) -> Path:
        """Return the folder that the artifact of a stage goes to."""
        if stage is index:
            return self.folder.images(self.recipe.images)
        return self.folder.artifact(stage.kind, epoch)

    def add(
        self, stage: StageFunction[P], epoch: int | None, /, *_: P.args, **inputs: P.kwargs
    ) -> Path:
        """Add the job of a stage, and return the folder that its artifact goes to."""
        config = {name: self.recipe.section(name) for name in stage.sections}
        out = self.place(stage, epoch)
        # Type checkers have compared the inputs with the signature of the stage.
        job_inputs = cast("dict[str, Input]", inputs)
        self._jobs[out] = Job(stage, config, job_inputs, out, self.recipe.seed, epoch)
        return out


def plan(folder: RunFolder, recipe: Recipe, *, source: str | None, epochs: int) -> Plan:
    """Return the jobs of the first `epochs` epochs of a run, beginning with the images.

    Args:
        folder: folder of the run.
        recipe: recipe of the run.
        source: fingerprint of the source; None if the key of the images does not matter.
        epochs: number of epochs.
    """
    planned = Plan(folder, recipe)
    images = planned.add(index, None, source=source or "")
    # As in `run_epochs`, but `add` only notes what would run.
    before = Before()
    trains = recipe.trains or epochs > 1
    for epoch in range(epochs):
        before = one_epoch(
            planned.add,
            epoch,
            images,
            before,
            warm_start=recipe.cluster.warm_start,
            training=recipe.train,
            trains=trains,
        )
    return planned
