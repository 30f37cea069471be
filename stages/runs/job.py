"""A job: one stage with its configuration and inputs, and the folder its artifact goes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.stage import Input, StageFunction, artifacts_of


@dataclass(frozen=True)
class Job:
    """Making a job runs nothing."""

    stage: StageFunction[...]
    config: Mapping[str, StrictConfig]
    """The sections that the stage reads, by name."""
    inputs: Mapping[str, Input]
    out: Path
    seed: int
    epoch: int | None

    @property
    def title(self) -> str:
        """What people call it: `extract epoch 3`."""
        return self.stage.name if self.epoch is None else f"{self.stage.name} epoch {self.epoch}"

    def key(self) -> str:
        """Return the key that the artifact has if made now.

        Raises:
            ArtifactError: an input is not there.
        """
        return self.stage.key(self.config, self.inputs, seed=self.seed, epoch=self.epoch)

    def digest(self) -> str:
        """Return the digest of the artifact's contents; of a pruned one, of what it had.

        Raises:
            ArtifactError: there is none.
        """
        return read_manifest(self.out).digest

    def is_done(self, *, accept_pruned: bool = True) -> bool:
        """Return whether the artifact that this job would make is there."""
        condition, _ = inspect(self.out)
        usable = condition is Condition.WHOLE or (accept_pruned and condition is Condition.PRUNED)
        return usable and read_manifest(self.out).key == self.key()

    def opened_inputs(self) -> list[Path]:
        """Return the artifacts whose files this stage opens, not their manifests only."""
        return [
            artifact
            for name, value in self.inputs.items()
            if name not in self.stage.manifest_only
            for artifact in artifacts_of(value)
        ]

    def run(self, context: Context) -> None:
        """Run the stage, in this process."""
        self.stage.make(self.config, self.inputs, out=self.out, context=context)
