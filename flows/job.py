"""A job: one stage, its configuration and inputs, and the folder its artifact goes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from deepcluster_core.artifacts.manifest import (
    Condition,
    Stage,
    artifact_key,
    inspect,
    read_manifest,
)
from deepcluster_core.context import Context
from stages.layout import RunFolder
from stages.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """Nothing runs by making one. Jobs refer to the jobs they read from, back to the images."""

    module: ModuleType
    recipe: Recipe
    epoch: int | None
    inputs: Mapping[str, "Job | str | None"]
    out: Path

    @property
    def stage(self) -> Stage:
        """The identity of the stage."""
        return self.module.STAGE

    @property
    def title(self) -> str:
        """What people call it: `extract epoch 3`."""
        return self.stage.name if self.epoch is None else f"{self.stage.name} epoch {self.epoch}"

    def key(self) -> str:
        """Return the key that the artifact has if made now.

        Raises:
            ArtifactError: an input is not there.
        """
        digests = {
            name: value.digest() if isinstance(value, Job) else value
            for name, value in self.inputs.items()
            if value is not None
        }
        return artifact_key(
            self.stage,
            config={name: self.recipe.section(name) for name in self.stage.reads},
            inputs=digests,
            seed=self.recipe.seed,
            epoch=self.epoch,
        )

    def digest(self) -> str:
        """Return the digest of the artifact's contents; of a pruned one, of what it had.

        Raises:
            ArtifactError: there is none.
        """
        return read_manifest(self.out).digest

    def is_done(self, *, pruned_will_do: bool = True) -> bool:
        """Tell whether the artifact that this job would make is there."""
        condition, _ = inspect(self.out)
        usable = condition is Condition.WHOLE or (pruned_will_do and condition is Condition.PRUNED)
        return usable and read_manifest(self.out).key == self.key()

    def opened_inputs(self) -> list["Job"]:
        """Return the jobs whose artifacts this stage opens, beyond their manifests."""
        return [
            value
            for name, value in self.inputs.items()
            if isinstance(value, Job) and name not in self.stage.glances_at
        ]

    def run(self, context: Context) -> None:
        """Run the stage, in this process."""
        sections = {name: self.recipe.section(name) for name in self.stage.reads}
        inputs = {
            name: value.out if isinstance(value, Job) else value
            for name, value in self.inputs.items()
        }
        self.module.run(**sections, **inputs, out=self.out, context=context)


def job_of(
    folder: RunFolder,
    recipe: Recipe,
    stage: ModuleType,
    epoch: int | None,
    /,
    **inputs: Job | str | None,
) -> Job:
    """Return the job that makes a stage's artifact in its place in a run."""
    shared = recipe.images if stage.STAGE.kind == "images" else None
    return Job(stage, recipe, epoch, inputs, shared or folder.artifact(stage.STAGE.kind, epoch))
