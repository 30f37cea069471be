"""How an evaluation is declared: once, beside its stage."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.stage import External, Input, StageFunction
from stages.evaluations.shared.networks import supervised_weights

Data = Literal["metrics", "images", "labelled", "dataset"]
OPTIONS: dict[Data, tuple[str, ...]] = {
    "metrics": (),
    "images": (),
    "labelled": ("data", "validation", "supervised"),
    "dataset": ("data", "supervised"),
}
"""Options about data and networks that an evaluation reads, by its kind of data."""


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
    def options(self) -> tuple[str, ...]:
        """The options about data and networks that it reads."""
        return OPTIONS[self.data]

    @property
    def compares_networks(self) -> bool:
        """Whether it evaluates several networks side by side."""
        return "supervised" in self.options

    def inputs(
        self,
        protocol: StrictConfig,
        *,
        data: Path | None = None,
        channels: int = 3,
        supervised: Path | None = None,
        **artifacts: Path | None,
    ) -> dict[str, Input]:
        """Return what the stage reads, with the digests of what lies outside of the run.

        Args:
            protocol: decides which part of a data set is read.
            data: folder of a data set, for evaluations that need one.
            channels: of the pictures, as the network reads them.
            supervised: weights trained with labels, a .safetensors file, to compare with.
            artifacts: of the run, by the names of the stage's inputs.

        Raises:
            SourceError: the data set is missing, incomplete or damaged.
            ArtifactError: the weights cannot be read.
        """
        inputs: dict[str, Input] = dict(artifacts)
        if self.fingerprint is not None:
            assert data is not None, f"{self.stage.name} needs a data set"
            inputs["data"] = External(data, self.fingerprint(data, protocol), channels)
        if self.compares_networks:
            inputs["supervised"] = None if supervised is None else supervised_weights(supervised)
        return inputs

    def run(
        self,
        *,
        protocol: StrictConfig,
        out: Path,
        context: Context,
        network: StrictConfig | None = None,
        **given: Any,  # noqa: ANN401  see `inputs`
    ) -> None:
        """Evaluate in this process; `given` are the arguments of `inputs`."""
        sections = {"protocol": protocol, "network": network}
        config = {name: section for name, section in sections.items() if section is not None}
        self.stage.make(config, self.inputs(protocol, **given), out=out, context=context)
