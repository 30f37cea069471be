"""How an evaluation is declared: once, beside its stage."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepcluster_core.config import StrictConfig
from deepcluster_core.stage import StageFunction

Data = Literal["metrics", "images", "labelled", "dataset"]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: its stage, and what it needs."""

    stage: StageFunction[...]
    data: Data
    """metrics: those of all epochs. images: the run's own. labelled: images with true labels, the
    run's own or others. dataset: a data set in the layout of its distributors."""
    fingerprint: Callable[[Path, Any], str] | None = None
    """Returns the digest of a data set for a protocol; needed where `data` is `dataset`."""
    variants: tuple[str, ...] = ()
    """Further protocols: `all` adds the evaluation `NAME-all` with `NAME-all.yaml`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that people type, one for each protocol."""
        return (self.stage.name, *(f"{self.stage.name}-{variant}" for variant in self.variants))

    @property
    def protocol(self) -> type[StrictConfig]:
        """The model of its protocol."""
        return self.stage.sections["protocol"]

    @property
    def compares_networks(self) -> bool:
        """Whether it judges several networks side by side."""
        return self.data in ("labelled", "dataset")
