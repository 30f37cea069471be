"""Evaluations as HTML: their tables, and the pictures that lie beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from deepcluster_core.report.html import data_uri, escaped, table
from deepcluster_core.text import readable_size

OPEN_ROWS = 24
"""Rows up to which a table is shown at once; longer ones unfold."""
ROWS_AT_MOST = 500
PICTURE_AT_MOST = 4 << 20
"""Bytes of a picture that is put into the page. Our choice: a page that opens at once."""

TOLD = {
    "filters": "Filters of the first layer after training, a tile each",
    "filters-random": "Filters of the first layer before training, a tile each",
    "nmi": "NMI by epoch",
}
"""Texts of pictures by their names without `.png`."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one epoch."""

    name: str
    epoch: int
    rows: Sequence[Mapping[str, Any]]
    """All with the same columns."""
    pictures: Mapping[str, bytes]
    """PNG, by their names in the folder of the evaluation."""
    note: str = ""


def evaluations_html(evaluations: Sequence[Evaluation]) -> str:
    """Return a section for each evaluation: its latest epoch, the others folded below it."""
    ordered = sorted(evaluations, key=lambda found: (found.name, -found.epoch))
    parts: list[str] = []
    for name, group in groupby(ordered, key=lambda found: found.name):
        latest, *others = group
        parts.append(f"<section><h3>{escaped(name)}</h3>{_evaluation(latest)}")
        parts += [
            f"<details><summary>Epoch {other.epoch}</summary>{_evaluation(other)}</details>"
            for other in others
        ]
        parts.append("</section>")
    return "".join(parts)


def _evaluation(found: Evaluation) -> str:
    pictures = "".join(_picture(name, data) for name, data in found.pictures.items())
    note = f'<p class="remark bad">{escaped(found.note)}</p>' if found.note else ""
    shown = f'<div class="pictures">{pictures}</div>' if pictures else ""
    return f"<p>Epoch {found.epoch}</p>{note}{_results(found)}{shown}"


def _results(found: Evaluation) -> str:
    if not found.rows:
        return ""
    columns = [name for name in found.rows[0] if name != "protocol"]
    rows = [[row.get(name) for name in columns] for row in found.rows[:ROWS_AT_MOST]]
    made = table(
        [name.replace("_", " ") for name in columns],
        rows,
        name=f"Results of {found.name}, epoch {found.epoch}",
    )
    left = len(found.rows) - len(rows)
    more = f"<p>… and {left:,} more rows in results.parquet</p>" if left else ""
    if len(rows) <= OPEN_ROWS:
        return made
    return f"<details><summary>{len(found.rows):,} rows</summary>{made}{more}</details>"


def _picture(name: str, data: bytes) -> str:
    stem = name.removesuffix(".png")
    layer = stem.removeprefix("layers/")
    text = TOLD.get(stem) or (
        f"Images that the channels of layer {layer} respond to most" if layer != stem else stem
    )
    if len(data) > PICTURE_AT_MOST:
        size = readable_size(len(data))
        return f"<p>{escaped(name)}, {size}, is too large for this page; see its folder.</p>"
    return (
        f'<figure><img decoding="async" alt="{escaped(text)}" '
        f'src="{data_uri(data, "image/png")}"><figcaption>{escaped(text)}</figcaption></figure>'
    )
