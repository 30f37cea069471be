"""What evaluations say about the runs of a sweep: numbers by k, the axis of figure 2(c)."""

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
"""Networks that no clusters have trained: the same for every k."""


SCORES = {one.stage.name: one.score for one in EVALUATIONS.values() if one.score is not None}
"""By the stage. The others have pictures, or no networks to compare."""


@dataclass(frozen=True)
class Evaluated:
    """The numbers of a sweep."""

    table: pd.DataFrame
    """A row for each, with the columns result, a name in `evaluations/` of the runs; measure; k;
    epoch; network: trained, or one of `REFERENCES`; and value, percent."""
    unlike: tuple[str, ...]
    """Results left out: of other protocols or data in each run, or of networks that are gone."""

    @property
    def by_row(self) -> pd.DataFrame:
        """The same with a row for each k and epoch, its index, and a column for each number.

        Columns: `voc-classification ap` of the trained network, `voc-classification ap random`.
        """
        of = self.table["network"].map(lambda name: "" if name == TRAINED else f" {name}")
        named = self.table.assign(column=self.table["result"] + " " + self.table["measure"] + of)
        wide = named.pivot(index=["k", "epoch"], columns="column", values="value")
        return wide.reindex(columns=list(dict.fromkeys(named["column"])))


@dataclass(frozen=True)
class _Result:
    """What one run has of an evaluation."""

    member: Member
    folder: Path
    manifest: Manifest

    def is_of_its_network(self) -> bool:
        """Tell whether the run still has the network that was evaluated, or had it when pruned."""
        trained = self.member.folder.artifact("checkpoints", self.manifest.epoch)
        is_there = inspect(trained)[0] in (Condition.WHOLE, Condition.PRUNED)
        return is_there and read_manifest(trained).digest == self.manifest.inputs.get("checkpoint")

    def conditions(self) -> str:
        """Return a digest of all that it depends on but the network: alike where comparable."""
        of = self.manifest
        inputs = {name: digest for name, digest in of.inputs.items() if name != "checkpoint"}
        return digest_of([of.stage, of.version, of.config, inputs, of.seed])

    def numbers(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of `Evaluated.table` but for their result."""
        score = SCORES[self.manifest.stage]
        for row in read_results(self.folder):
            if (measure := score.measure(row)) is not None:
                network = row["network"] if row["network"] in REFERENCES else TRAINED
                about = {"measure": measure, "k": self.member.k, "epoch": self.manifest.epoch}
                yield about | {"network": network, "value": row[score.column]}


def evaluated(sweep: Sweep) -> Evaluated:
    """Return what the results say that lie in the folders of the runs.

    Raises:
        ArtifactError: one of them seemed whole, but cannot be read.
    """
    rows: list[dict[str, Any]] = []
    unlike: list[str] = []
    for name, epoch in product(_names(sweep), range(sweep.epochs)):
        made = list(_made(sweep, name, epoch))
        conditions = {one.conditions() for one in made}
        if len(conditions) > 1 or not all(one.is_of_its_network() for one in made):
            unlike.append(f"{name} of epoch {epoch}")
        else:
            rows += ({"result": name} | row for one in made for row in one.numbers())
    columns = ["result", "measure", "k", "epoch", "network", "value"]
    return Evaluated(pd.DataFrame(rows, columns=columns), tuple(unlike))


def _names(sweep: Sweep) -> list[str]:
    """Return the names of all results, whatever they are of."""
    folders = (one.folder.root / "evaluations" for one in sweep.members)
    return sorted({path.name for folder in folders for path in folder.glob("[!_]*")})


def _made(sweep: Sweep, name: str, epoch: int) -> Iterator[_Result]:
    """Yield the results of an epoch that have numbers, by ascending k."""
    for member in sweep.members:
        folder = member.folder.artifact(f"evaluations/{name}", epoch)
        if inspect(folder)[0] is Condition.WHOLE:
            manifest = read_manifest(folder)
            if manifest.stage in SCORES:
                yield _Result(member, folder, manifest)
