"""A job: one stage, its configuration and inputs, and the folder its artifact goes to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Union

from deepcluster_core.artifacts.manifest import (
    Condition,
    Stage,
    artifact_key,
    inspect,
    read_manifest,
)
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe


@dataclass(frozen=True)
class Given:
    """What a stage reads from outside of the run."""

    out: Path
    contents: str
    """Digest of what lies there."""

    def digest(self) -> str:
        """Return the digest, as that of a job's artifact."""
        return self.contents


Input = Union["Job", Given, str, None]
"""What a stage reads: a job's artifact, what was given or, of what is neither, a digest."""


@dataclass(frozen=True)
class Job:
    """Nothing runs by making one. Jobs refer to the jobs they read from, back to the images."""

    module: ModuleType
    recipe: Recipe
    epoch: int | None
    inputs: Mapping[str, Input]
    out: Path
    own: Mapping[str, StrictConfig] = field(default_factory=dict[str, StrictConfig])
    """Sections of its configuration that are no part of the recipe: an evaluation's protocol."""
    told: Mapping[str, int] = field(default_factory=dict[str, int])
    """What the stage is told that follows from its inputs, and so is no part of the key."""

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
            name: value if isinstance(value, str) else value.digest()
            for name, value in self.inputs.items()
            if value is not None
        }
        return artifact_key(
            self.stage,
            config=self._sections(),
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
        inputs = {
            name: value.out if isinstance(value, Job | Given) else value
            for name, value in self.inputs.items()
        }
        self.module.run(**self._sections(), **inputs, **self.told, out=self.out, context=context)

    def _sections(self) -> dict[str, StrictConfig]:
        """Return the sections that the stage reads, by name."""
        return {
            name: self.own[name] if name in self.own else self.recipe.section(name)
            for name in self.stage.reads
        }


def job_of(
    folder: RunFolder,
    recipe: Recipe,
    stage: ModuleType,
    epoch: int | None,
    /,
    **inputs: Input,
) -> Job:
    """Return the job that makes a stage's artifact in its place in a run."""
    shared = recipe.images if stage.STAGE.kind == "images" else None
    return Job(stage, recipe, epoch, inputs, shared or folder.artifact(stage.STAGE.kind, epoch))
