"""The table of `benchmarks.quality`, and how well measures without labels order its runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Figures, spread
from benchmarks.ingredients import Ingredient
from benchmarks.measures import kendall_tau

LABEL_FREE = ("rankme", "alpha", "view_agreement", "head_agreement", "effective_rank")
"""Columns of the metrics that need no labels, and might tell which run is best."""
TASKS = ("object", "class")
MEASURES = {
    "neighbours": "10-NN",
    "linear": "linear",
    "nmi": "NMI",
    "accuracy": "accuracy",
}
OTHERS = {
    "pixels": "images of 16 px",
    "random": "the network before training",
    "frozen": "EfficientNet-Lite0, trained on ImageNet with labels",
}
NO_VALUE = "–"


def quality_table(
    runs: Mapping[str, Sequence[Figures]], known: Mapping[str, Ingredient]
) -> dict[str, Any]:
    """Return `header` and `rows` of texts: a row for each side, medians and extremes over seeds."""
    columns = {"epoch_s": "s an epoch", "epochs": "epochs"}
    for task in TASKS:
        if any(f"neighbours_{task}" in run[0] for run in runs.values()):
            columns |= {f"{name}_{task}": f"{title}, {task}" for name, title in MEASURES.items()}
    columns |= {name: name for name in LABEL_FREE if any(name in run[0] for run in runs.values())}

    rows: list[list[str]] = []
    for name, figures in runs.items():
        what = OTHERS.get(name) or _what(name, known)
        cells = [_cell(figures, figure) for figure in columns]
        rows.append([f"`{name}`", what, *cells])
    return {"header": ["side", "what", *columns.values()], "rows": rows}


def kendall_taus(runs: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, Any]]:
    """Return τ of each measure without labels with the 10-NN accuracy of each task, over all runs.

    `runs` is the number of runs that have the measure; with few of them, τ says little.
    """
    every = [run for figures in runs.values() for run in figures]
    taus: dict[str, dict[str, Any]] = {}
    for name in LABEL_FREE:
        having = [run for run in every if name in run]
        if not having:
            continue
        taus[name] = {"runs": len(having)}
        for task in TASKS:
            judge = f"neighbours_{task}"
            if all(judge in run for run in having):
                measured = [run[name] for run in having]
                taus[name][task] = kendall_tau(measured, [run[judge] for run in having])
    return taus


def _what(name: str, known: Mapping[str, Ingredient]) -> str:
    ingredient = known[name]
    if ingredient.on is None:
        return ingredient.what
    return f"`{ingredient.on}` and {ingredient.what}"


def _cell(figures: Sequence[Figures], name: str) -> str:
    """Return the median of a figure and, over several seeds, its extremes."""
    if not all(name in run for run in figures):
        return NO_VALUE
    found = spread(figures, name)
    is_share = name.rpartition("_")[2] in TASKS or name.endswith("agreement")
    values = [found.median, found.least, found.greatest]
    median, least, greatest = [_text(value, is_share=is_share) for value in values]
    if len(figures) == 1:
        return median
    return f"{median} ({least} to {greatest})"


def _text(value: float, *, is_share: bool) -> str:
    if is_share:
        return f"{100 * value:.1f} %"
    return f"{value:.3g}"
