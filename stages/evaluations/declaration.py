"""How an evaluation is declared: once, beside its stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
class Score:
    """Where the results of an evaluation say, in percent, how good a network is.

    Not a column of the paper's tables: those name layers, which differ between networks.
    """

    column: str
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    """What other columns of its row must hold."""
    each: str = ""
    """A column that tells several rows of a network apart: each has a score of its own."""
    named: str = "{}"
    """What people call such a row, by its value in that column."""

    def measure(self, row: Mapping[str, Any]) -> str | None:
        """Return what the score in a row is, for example `top1_best conv3`; None if it has none.

        It is part of the name of a column of sweep.parquet.
        """
        if any(str(row.get(name)) != wanted for name, wanted in self.where.items()):
            return None
        return f"{self.column} {self.named.format(row[self.each])}" if self.each else self.column


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: its stage, what it needs and what it says."""

    stage: StageFunction[...]
    about: str
    """What it measures, in one line."""
    data: Data
    """metrics: those of all epochs. images: the run's own. labelled: images with true labels, the
    run's own or others. dataset: a data set in the layout of its distributors."""
    fingerprint: Callable[[Path, Any], str] | None = None
    """Returns the digest of a data set for a protocol; needed where `data` is `dataset`."""
    variants: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further protocols, each with what it measures: `all` adds the evaluation `NAME-all` with
    `NAME-all.yaml`."""
    score: Score | None = None
    """How good a network is, for the comparison of a sweep; needed where networks are compared."""

    def __post_init__(self) -> None:
        assert self.compares_networks == (self.score is not None), self.stage.name
        assert (self.data == "dataset") == (self.fingerprint is not None), self.stage.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names that people type, one for each protocol."""
        return (self.stage.name, *(f"{self.stage.name}-{variant}" for variant in self.variants))

    def describe(self, name: str) -> str:
        """Return one of the names as a sentence, for lists of evaluations."""
        variant = name.removeprefix(self.stage.name).removeprefix("-")
        needs = "; needs data" if self.data == "dataset" else ""
        return f"{self.variants[variant] if variant else self.about}{needs}."

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
