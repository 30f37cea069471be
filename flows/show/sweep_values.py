"""The results of evaluating the runs of a sweep: numbers by k, as in figure 2(c), or any key."""

from collections.abc import Iterator, Mapping, Sequence
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
from stages.evaluations.shared.network_names import GIVEN, REFERENCES
from stages.evaluations.shared.results import read_results
from stages.runs.evaluations import EVALUATIONS
from stages.runs.sweep_plan import Member, Sweep

TRAINED = "trained"
MEASURES = {
    evaluation.stage.name: evaluation.measures
    for evaluation in EVALUATIONS.values()
    if evaluation.measures
}
"""Columns of measures without labels, by the name of the evaluation's stage."""


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
    measure, `axis`, epoch, network (trained, or one of `REFERENCES`) and value (percent, or the
    unit of a measure without labels)."""
    unlike: tuple[str, ...]
    """Results that are left out because their protocol or data differ between the runs, or because
    the evaluated network no longer exists."""
    axis: str = "k"
    """The column with the varied key."""
    unscored: frozenset[str] = frozenset()
    """Results that hold measures without labels, which are no percentages."""

    @property
    def scores(self) -> pd.DataFrame:
        """The part of the table whose values are percentages."""
        is_score = ~self.table["result"].isin(list(self.unscored))
        return self.table.loc[is_score]

    @property
    def by_row(self) -> pd.DataFrame:
        """The numbers with a row for each run and epoch, which are the index.

        Columns are named like `voc-classification ap` for the trained network, and
        `voc-classification ap random` for the others.
        """
        suffix = self.table["network"].map(_suffix)
        column = self.table["result"] + " " + self.table["measure"] + suffix
        named = self.table.assign(column=column)
        wide = named.pivot(index=[self.axis, "epoch"], columns="column", values="value")
        # Sorted by the pivot: put the columns back in the order of the results.
        in_order = list(dict.fromkeys(named["column"]))
        return wide.reindex(columns=in_order)


def _suffix(network: str) -> str:
    return "" if network == TRAINED else f" {network}"


@dataclass(frozen=True)
class _Result:
    """The result of one evaluation of one run."""

    sweep: Sweep
    member: Member
    folder: Path
    manifest: Manifest

    def is_of_its_network(self) -> bool:
        """Return whether the run's checkpoint, pruned or not, is the one that was evaluated."""
        checkpoint = self.member.folder.artifact("checkpoints", self.manifest.epoch)
        condition, _ = inspect(checkpoint)
        if condition not in (Condition.WHOLE, Condition.PRUNED):
            return self._evaluated_digest is None and condition is Condition.MISSING
        return read_manifest(checkpoint).digest == self._evaluated_digest

    @property
    def _evaluated_digest(self) -> str | None:
        """The digest of the evaluated checkpoint; None if the run had not been trained."""
        return self.manifest.inputs.get("checkpoint")

    def conditions(self) -> str:
        """Return a digest of what the result depends on besides the network and the varied key.

        Results with equal digests can be compared.
        """
        made, key = self.manifest, self.sweep.key
        inputs = dict(made.inputs)
        inputs.pop("checkpoint", None)
        if self.sweep.varied_section == "dataset":
            inputs.pop("images", None)
        config = _without(made.config, key.split("."))
        seed = None if key == "seed" else made.seed
        return digest_of([made.stage, made.version, config, inputs, seed])

    def numbers(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of `Evaluated.table` without the column for the result."""
        # Without training, the given weights are the run's network.
        own = GIVEN if self._evaluated_digest is None else None
        for row in read_results(self.folder):
            # The trained network is named after its epoch, which has a column of its own here.
            is_reference = row["network"] in REFERENCES and row["network"] != own
            for measure, value in self._values(row):
                yield {
                    "measure": measure,
                    self.sweep.axis: self.member.value,
                    "epoch": self.manifest.epoch,
                    "network": row["network"] if is_reference else TRAINED,
                    "value": value,
                }

    def _values(self, row: dict[str, Any]) -> Iterator[tuple[str, float]]:
        """Yield the measures of a row of the results, and their values."""
        score = SCORES.get(self.manifest.stage)
        if score is None:
            for name in MEASURES[self.manifest.stage]:
                yield name, row[name]
            return
        measure = score.measure(row)
        if measure is not None:  # otherwise the score does not use this row
            yield measure, row[score.column]


def _without(config: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """Return nested sections without one key, given as the names on the way to it."""
    first, *rest = parts
    kept = {name: value for name, value in config.items() if name != first}
    if rest and isinstance(inner := config.get(first), Mapping):
        kept[first] = _without(inner, rest)
    return kept


def evaluated(sweep: Sweep) -> Evaluated:
    """Return the numbers of all results in the folders of the runs.

    Raises:
        ArtifactError: a result seemed whole, but cannot be read.
    """
    rows: list[dict[str, Any]] = []
    unlike: list[str] = []
    unscored: set[str] = set()
    for name, epoch in product(_names(sweep), range(sweep.epochs)):
        results = list(_results(sweep, name, epoch))
        # A curve over k must not mix protocols, data or networks.
        if not _are_comparable(results):
            unlike.append(f"{name} of epoch {epoch}")
            continue
        for result in results:
            if result.manifest.stage in MEASURES:
                unscored.add(name)
            for row in result.numbers():
                rows.append({"result": name, **row})
    columns = ["result", "measure", sweep.axis, "epoch", "network", "value"]
    table = pd.DataFrame(rows, columns=columns)
    return Evaluated(table, tuple(unlike), sweep.axis, frozenset(unscored))


def _are_comparable(results: list[_Result]) -> bool:
    """Return whether results depend on the same protocol and data, and on existing networks."""
    conditions = {result.conditions() for result in results}
    if len(conditions) > 1:
        return False
    return all(result.is_of_its_network() for result in results)


def _names(sweep: Sweep) -> list[str]:
    """Return the names of all results of a sweep, of any evaluation."""
    names: set[str] = set()
    for member in sweep.members:
        folder = member.folder.root / "evaluations"
        # Names that begin with an underscore are not results.
        names.update(path.name for path in folder.glob("[!_]*"))
    return sorted(names)


def _results(sweep: Sweep, name: str, epoch: int) -> Iterator[_Result]:
    """Yield the results of a name and epoch that have numbers to compare, in the sweep's order."""
    for member in sweep.members:
        folder = member.folder.artifact(f"evaluations/{name}", epoch)
        condition, _ = inspect(folder)
        if condition is not Condition.WHOLE:
            continue
        manifest = read_manifest(folder)
        if manifest.stage in SCORES or manifest.stage in MEASURES:
            yield _Result(sweep, member, folder, manifest)
