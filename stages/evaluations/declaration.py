"""Declarations of evaluations. Each evaluation declares itself once, in the module of its stage."""

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
"""Command-line options about data and networks that an evaluation accepts, by kind of data."""


@dataclass(frozen=True)
class Score:
    """The column of an evaluation's results that rates a network, in percent.

    The columns of the paper's tables cannot serve: they name layers, which differ between networks.
    """

    column: str
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    """Values that other columns of a row must have for the row to carry a score."""
    each: str = ""
    """A column that distinguishes several rows of one network; each row then has its own score."""
    named: str = "{}"
    """Format of a row's name for people, given its value in the column `each`."""

    def measure(self, row: Mapping[str, Any]) -> str | None:
        """Return the name of a row's score, such as `top1_best conv3`; None if it has no score.

        The name becomes part of a column name in sweep.parquet.
        """
        for name, wanted in self.where.items():
            if str(row.get(name)) != wanted:
                return None
        if not self.each:
            return self.column
        row_name = self.named.format(row[self.each])
        return f"{self.column} {row_name}"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: its stage, the data it needs and the score it reports."""

    stage: StageFunction[...]
    about: str
    """One line about what it measures."""
    data: Data
    """What it reads. metrics: the metrics of all epochs. images: the run's images. labelled: images
    with true labels, from the run or from another source. dataset: a data set as distributed."""
    fingerprint: Callable[[Path, Any], str] | None = None
    """Function that returns the digest of a data set, given the protocol; required if `data` is
    `dataset`."""
    variants: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further protocols and one line about each. The key `all` adds the evaluation `NAME-all`,
    whose protocol is `NAME-all.yaml`."""
    on_ranks: Callable[[Any], str] | None = None
    """Function that returns, given the protocol, what several ranks share and what the first of
    them does alone; None if they share all of it, or if it runs on one rank."""
    score: Score | None = None
    """The score for comparing the runs of a sweep; required if networks are compared."""
    measures: tuple[str, ...] = ()
    """Columns that compare the runs of a sweep without labels, in any unit."""

    def __post_init__(self) -> None:
        # A mistake in a declaration fails when its module is imported.
        assert self.compares_networks == (self.score is not None), self.stage.name
        assert (self.data == "dataset") == (self.fingerprint is not None), self.stage.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names that users type, one per protocol."""
        variants = [f"{self.stage.name}-{variant}" for variant in self.variants]
        return (self.stage.name, *variants)

    def describe(self, name: str) -> str:
        """Return the sentence that describes `name` in lists of evaluations."""
        variant = name.removeprefix(self.stage.name).removeprefix("-")
        about = self.variants[variant] if variant else self.about
        needs = "; needs data" if self.data == "dataset" else ""
        return f"{about}{needs}."

    def remark_on_ranks(self, protocol: StrictConfig, num_ranks: int) -> str | None:
        """Return a remark on what of several ranks does nothing; None if all share all."""
        name = self.stage.name
        if num_ranks == 1:
            return None
        if self.stage.ranks == "one":
            return f"{name} runs on one rank, in the process of the run, not on {num_ranks}"
        if self.on_ranks is None:
            return None
        return f"{name} on {num_ranks} ranks: {self.on_ranks(protocol)}"

    @property
    def protocol(self) -> type[StrictConfig]:
        """The pydantic model of its protocol."""
        return self.stage.sections["protocol"]

    @property
    def options(self) -> tuple[str, ...]:
        """The command-line options about data and networks that it accepts."""
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
        """Return the inputs of the stage, with digests of those that lie outside the run.

        Args:
            protocol: decides which part of a data set is read.
            data: folder of a data set, for evaluations that need one.
            channels: number of image channels that the network reads.
            supervised: .safetensors file of weights trained with true labels, to compare with.
            artifacts: the run's artifacts, by the names of the stage's inputs.

        Raises:
            SourceError: the data set is missing, incomplete or damaged.
            ArtifactError: the weights cannot be read.
        """
        inputs: dict[str, Input] = dict(artifacts)
        if self.fingerprint is not None:
            assert data is not None, f"{self.stage.name} needs a data set"
            digest = self.fingerprint(data, protocol)
            inputs["data"] = External(data, digest, channels)
        if self.compares_networks:
            # The stage has this input in any case; without weights it is None.
            inputs["supervised"] = None
            if supervised is not None:
                inputs["supervised"] = supervised_weights(supervised)
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
        config = {"protocol": protocol}
        # Evaluations of metrics need no network.
        if network is not None:
            config["network"] = network
        inputs = self.inputs(protocol, **given)
        self.stage.make(config, inputs, out=out, context=context)
