"""A job: one stage with its settings and inputs, and the folder that its artifact goes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.stage import Input, StageFunction, artifacts_of


@dataclass(frozen=True)
class Job:
    """A stage with everything it needs to run. Creating a job runs nothing."""

    stage: StageFunction[...]
    config: Mapping[str, StrictConfig]
    """The sections that the stage reads, by name."""
    inputs: Mapping[str, Input]
    out: Path
    seed: int
    epoch: int | None

    @property
    def title(self) -> str:
        """The name that people see, such as `extract epoch 3`."""
        if self.epoch is None:
            return self.stage.name
        return f"{self.stage.name} epoch {self.epoch}"

    def key(self) -> str:
        """Return the key that the artifact would have if it were made now.

        Raises:
            ArtifactError: an input is missing.
        """
        return self.stage.key(self.config, self.inputs, seed=self.seed, epoch=self.epoch)

    def digest(self) -> str:
        """Return the digest of the artifact's contents, or of its former contents if it was pruned.

        Raises:
            ArtifactError: the artifact is missing.
        """
        return read_manifest(self.out).digest

    def is_done(self, *, accept_pruned: bool = True) -> bool:
        """Return whether the artifact that this job would make exists already.

        Args:
            accept_pruned: count an artifact whose files were deleted to save space as existing.
        """
        condition, _ = inspect(self.out)
        accepted = {Condition.WHOLE}
        if accept_pruned:
            accepted.add(Condition.PRUNED)
        if condition not in accepted:
            return False
        # An artifact with a different key was made from different inputs or settings.
        return read_manifest(self.out).key == self.key()

    def opened_inputs(self) -> list[Path]:
        """Return the input artifacts of which the stage reads more than the manifest."""
        opened: list[Path] = []
        for name, value in self.inputs.items():
            if name not in self.stage.manifest_only:
                opened += artifacts_of(value)
        return opened

    def run(self, context: Context) -> None:
        """Run the stage in this process."""
        self.stage.make(self.config, self.inputs, out=self.out, context=context)
