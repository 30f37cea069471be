"""The results of evaluating the runs of a sweep: numbers by k, as in figure 2(c)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from deepcluster_core.artifacts.manifest import (
    Condition,
    Manifest,
    digest_of,
    inspect,
    read_manifest,
)
from stages.evaluations.shared.networks import RANDOM, SUPERVISED
from stages.evaluations.shared.results import read_results
from stages.runs.evaluations import EVALUATIONS
from stages.runs.sweep_plan import Member, Sweep

TRAINED = "trained"
REFERENCES = (RANDOM, SUPERVISED)
"""Networks that were not trained on clusters, and so do not depend on k."""


SCORES = {
    evaluation.stage.name: evaluation.score
    for evaluation in EVALUATIONS.values()
    if evaluation.score is not None
}
"""Scores by the name of the evaluation's stage. The other evaluations make pictures, or do not
compare networks."""


@dataclass(frozen=True)
class Evaluated:
    """The numbers that evaluations have measured in a sweep."""

    table: pd.DataFrame
    """A row for each number, with the columns result (a name in `evaluations/` of the runs),
    measure, k, epoch, network (trained, or one of `REFERENCES`) and value (percent)."""
    unlike: tuple[str, ...]
    """Results that are left out because their protocol or data differ between the runs, or because
    the evaluated network no longer exists."""

    @property
    def by_row(self) -> pd.DataFrame:
        """The numbers with a row for each k and epoch, which are the index.

        Columns are named like `voc-classification ap` for the trained network, and
        `voc-classification ap random` for the others.
        """
        suffix = self.table["network"].map(lambda name: "" if name == TRAINED else f" {name}")
        column = self.table["result"] + " " + self.table["measure"] + suffix
        named = self.table.assign(column=column)
        wide = named.pivot(index=["k", "epoch"], columns="column", values="value")
        return wide.reindex(columns=list(dict.fromkeys(named["column"])))


@dataclass(frozen=True)
class _Result:
    """The result of one evaluation of one run."""

    member: Member
    folder: Path
    manifest: Manifest

    def is_of_its_network(self) -> bool:
        """Return whether the run's checkpoint, pruned or not, is the one that was evaluated."""
        checkpoint = self.member.folder.artifact("checkpoints", self.manifest.epoch)
        if inspect(checkpoint)[0] not in (Condition.WHOLE, Condition.PRUNED):
            return False
        return read_manifest(checkpoint).digest == self.manifest.inputs.get("checkpoint")

    def conditions(self) -> str:
        """Return a digest of everything but the network that the result depends on.

        Results with equal digests can be compared.
        """
        made = self.manifest
        inputs = {name: digest for name, digest in made.inputs.items() if name != "checkpoint"}
        return digest_of([made.stage, made.version, made.config, inputs, made.seed])

    def numbers(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of `Evaluated.table` without the column for the result."""
        score = SCORES[self.manifest.stage]
        for row in read_results(self.folder):
            if (measure := score.measure(row)) is not None:
                network = row["network"] if row["network"] in REFERENCES else TRAINED
                about = {"measure": measure, "k": self.member.k, "epoch": self.manifest.epoch}
                yield about | {"network": network, "value": row[score.column]}


def evaluated(sweep: Sweep) -> Evaluated:
    """Return the numbers of all results in the folders of the runs.

    Raises:
        ArtifactError: a result seemed whole, but cannot be read.
    """
    rows: list[dict[str, Any]] = []
    unlike: list[str] = []
    for name, epoch in product(_names(sweep), range(sweep.epochs)):
        results = list(_results(sweep, name, epoch))
        conditions = {result.conditions() for result in results}
        if len(conditions) > 1 or not all(result.is_of_its_network() for result in results):
            unlike.append(f"{name} of epoch {epoch}")
        else:
            rows += ({"result": name} | row for result in results for row in result.numbers())
    columns = ["result", "measure", "k", "epoch", "network", "value"]
    return Evaluated(pd.DataFrame(rows, columns=columns), tuple(unlike))


def _names(sweep: Sweep) -> list[str]:
    """Return the names of all results of a sweep, of any evaluation."""
    folders = (member.folder.root / "evaluations" for member in sweep.members)
    return sorted({path.name for folder in folders for path in folder.glob("[!_]*")})


def _results(sweep: Sweep, name: str, epoch: int) -> Iterator[_Result]:
    """Yield the results of a name and epoch that have scores, by ascending k."""
    for member in sweep.members:
        folder = member.folder.artifact(f"evaluations/{name}", epoch)
        if inspect(folder)[0] is Condition.WHOLE:
            manifest = read_manifest(folder)
            if manifest.stage in SCORES:
                yield _Result(member, folder, manifest)
