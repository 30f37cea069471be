"""Which measure without labels orders the runs of a sweep as the labels do: Kendall's tau."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import kendalltau

from deepcluster_core.text import known
from stages.evaluations.shared.network_names import REFERENCES

Row = Mapping[str, Any]
"""A row of a sweep's table: the metrics of the last epoch of a run."""

HIGHER_IS_BETTER = (
    *("nmi_previous", "view_agreement", "head_agreement", "effective_rank", "rankme"),
    *("lidar",),
)
"""Measures without labels of which a higher value is said to be better, in the order shown."""
LOWER_IS_BETTER = ("alpha", "alignment", "uniformity")
"""Those of which a lower value is. For alpha, values near 1 are, from which features in practice
deviate upwards."""
NAMES = {
    "nmi_previous": "NMI with the clusters before",
    "view_agreement": "view agreement",
    "head_agreement": "head agreement",
    "effective_rank": "participation ratio",
    "rankme": "RankMe",
    "alpha": "alpha",
    "lidar": "LiDAR",
}
LABELLED = {"ami": "AMI with the true labels", "nmi_labels": "NMI with the true labels"}
"""Measures with labels, by preference, where no nearest neighbours were evaluated. AMI, unlike NMI,
does not rise with k by chance."""
NEIGHBOURS = "knn"
"""The evaluation that is the best measure with labels, as it rates the features themselves."""
LEAST_RUNS = 3
"""Fewest runs whose order can agree or not by degrees."""
FEW_RUNS = 5
"""Up to this number of runs, a remark warns of chance. Our choice."""
ONE_EPOCH_APART = (
    "Neighbours are those of the network after the last epoch's training. Participation ratio, "
    "RankMe, alpha and head agreement are of the features that were clustered, those of the "
    "network before it."
)
"""A remark where the measure with labels is that of neighbours."""


@dataclass(frozen=True)
class Agreement:
    """How a measure without labels orders the runs, against a measure with labels."""

    name: str
    tau: float
    """Kendall's tau-b, -1 to 1; 1 if the better run always has the better value."""
    num_runs: int
    """Runs for which both measures are known."""


def labelled_measure(rows: Sequence[Row]) -> tuple[str, str] | None:
    """Return the column of the measure with labels, and its name; None if there is none.

    Of several numbers of neighbours, the one with the highest mean is taken.
    """
    means: dict[str, float] = {}
    for column in rows[0]:
        is_of_runs = not column.endswith(tuple(f" {network}" for network in REFERENCES))
        values = [row[column] for row in rows]
        if column.startswith(f"{NEIGHBOURS} top1") and is_of_runs and all(map(known, values)):
            means[column] = sum(values) / len(values)
    if means:
        best = max(means, key=lambda column: means[column])
        return best, best
    for column, name in LABELLED.items():
        if all(known(row.get(column)) for row in rows):
            return column, name
    return None


def agreements(rows: Sequence[Row], labelled: str) -> Iterator[Agreement]:
    """Yield the agreement of each measure without labels that is known for enough runs.

    A measure that is equal in all runs, as that of features which were made once for all of them,
    orders nothing and is left out: see `equal_in_all`.

    Args:
        rows: the last epoch of each run.
        labelled: column of the measure with labels.
    """
    for column, name, sign in _unlabelled(rows[0]):
        pairs = [(row.get(column), row[labelled]) for row in rows]
        known_pairs = [pair for pair in pairs if known(pair[0]) and known(pair[1])]
        if len(known_pairs) < LEAST_RUNS:
            continue
        without, with_labels = zip(*known_pairs, strict=True)
        statistic: Any = kendalltau(without, with_labels)[0]
        tau = float(statistic)
        if math.isfinite(tau):
            yield Agreement(name, sign * tau, len(known_pairs))


def equal_in_all(rows: Sequence[Row]) -> list[str]:
    """Return the names of the measures without labels that have one value in all runs."""
    names: list[str] = []
    for column, name, _ in _unlabelled(rows[0]):
        values = [row.get(column) for row in rows]
        if len(rows) >= LEAST_RUNS and all(map(known, values)) and len(set(values)) == 1:
            names.append(name)
    return names


def remark_on(num_runs: int, labelled: str) -> str:
    """Return what a number of runs lets one conclude, and what is compared with what.

    Args:
        num_runs: number of runs.
        labelled: column of the measure with labels.
    """
    text = (
        f"{num_runs} runs. Kendall's tau: 1 if a measure orders the runs as the labels do, -1 if "
        "it reverses them, 0 on average by chance."
    )
    if num_runs <= FEW_RUNS:
        # By chance, one order of all n! is the right one, and one its reverse.
        orders = math.factorial(num_runs)
        text += f" So few runs prove little: chance alone gives 1 in 1 of {orders:,} cases."
    return f"{text} {ONE_EPOCH_APART}" if labelled.startswith(NEIGHBOURS) else text


def _unlabelled(row: Row) -> Iterator[tuple[str, str, int]]:
    """Yield column, name and sign of measures without labels, those of `evaluate rank` as well."""
    for measures, sign in ((HIGHER_IS_BETTER, 1), (LOWER_IS_BETTER, -1)):
        for measure in measures:
            name = NAMES.get(measure, measure)
            if sign < 0:
                name += " (lower is better)"
            if measure in row:
                yield measure, name, sign
            # Results of the evaluation can have been kept under other names.
            for column in row:
                result, _, rest = column.rpartition(" ")
                if rest == measure and result:
                    yield column, f"{name}, {result}", sign
