"""Where the artifacts of a run lie."""

from dataclasses import dataclass
from pathlib import Path

EPOCH_KINDS = ("features", "labels", "checkpoints", "metrics")


@dataclass(frozen=True)
class RunFolder:
    """A run is a folder; every artifact is one folder of it, by kind and epoch."""

    root: Path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.root.resolve().name

    @property
    def config(self) -> Path:
        """The whole resolved configuration."""
        return self.root / "config.yaml"

    @property
    def task_results(self) -> Path:
        """Where Prefect keeps the records of finished tasks."""
        return self.root / ".prefect"

    def artifact(self, kind: str, epoch: int | None) -> Path:
        """Return an artifact's folder, in Hive style when it belongs to an epoch."""
        return self.root / (kind if epoch is None else f"{kind}/epoch={epoch:04d}")

    def epochs(self, kind: str) -> list[int]:
        """Return the epochs of which something of this kind lies on disk, in order."""
        names = (path.name for path in (self.root / kind).glob("epoch=*"))
        return sorted(epoch for epoch in map(epoch_of, names) if epoch is not None)


def epoch_of(name: str) -> int | None:
    """Return the epoch of which an artifact of this name is; None if it is none of ours."""
    _, _, digits = name.partition("epoch=")
    is_number = digits.isascii() and digits.isdigit()
    return int(digits) if is_number and name == f"epoch={int(digits):04d}" else None
