"""A stage input that combines the metrics of all epochs of a run, or of all runs of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from deepcluster_core.stage import Several


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics artifact of one epoch."""

    epoch: int
    folder: Path
    k: int | None = None
    """The number of clusters that a sweep asked for; None for a single run."""

    @property
    def name(self) -> str:
        """The name in the manifest: `epoch=0003`, or in a sweep `k=00010/epoch=0003`."""
        # Zeros in front keep the names in order.
        epoch = f"epoch={self.epoch:04d}"
        if self.k is None:
            return epoch
        return f"k={self.k:05d}/{epoch}"


@dataclass(frozen=True)
class MetricsOfEpochs(Several):
    """Metrics artifacts, in any order."""

    each: Sequence[EpochMetrics]

    def folders(self) -> dict[str, Path]:
        """Return the artifacts by their names in the manifest."""
        return {one.name: one.folder for one in self.each}

    def to_json(self) -> JsonValue:
        """Return the epoch, the absolute path of the folder and k of each artifact."""
        return [[one.epoch, str(one.folder.absolute()), one.k] for one in self.each]

    @classmethod
    def from_json(cls, value: Any) -> Self:  # noqa: ANN401  JSON
        """Return the input that `to_json` has described."""
        return cls([EpochMetrics(epoch, Path(folder), k) for epoch, folder, k in value])

    @property
    def is_of_sweep(self) -> bool:
        """Whether the metrics come from the runs of a sweep."""
        return any(one.k is not None for one in self.each)
