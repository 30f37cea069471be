"""The evaluations of a run in the report: their tables and their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROWS_AT_MOST = 500
PICTURE_AT_MOST = 4 << 20
"""Largest size of an image in the page, bytes. Our choice, so that the page opens at once."""


@dataclass(frozen=True)
class Table:
    """A table; missing values are None."""

    name: str
    """Name that screen readers read out."""
    headings: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Picture:
    """A PNG from the folder of an evaluation."""

    name: str
    data: bytes
    caption: str
    """A sentence about what the image shows."""

    @property
    def is_too_large(self) -> bool:
        """Whether the page shows only the image's name."""
        return len(self.data) > PICTURE_AT_MOST


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one epoch."""

    name: str
    epoch: int
    rows: Sequence[Mapping[str, Any]]
    """Result rows, all with equal columns."""
    pictures: Sequence[Picture]
    note: str = ""

    @property
    def table(self) -> Table:
        """The table of the first rows, without the protocol's digest, which all rows share."""
        columns: list[str] = []
        if self.rows:
            columns = [name for name in self.rows[0] if name != "protocol"]
        # The tables of some evaluations have a row per image.
        shown = self.rows[:ROWS_AT_MOST]
        return Table(
            name=f"Results of {self.name}, epoch {self.epoch}",
            headings=[name.replace("_", " ") for name in columns],
            rows=[[row.get(name) for name in columns] for row in shown],
        )


def by_name(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Return the evaluations by name, each list with the latest epoch first."""
    # A dict keeps the order in which its keys are inserted.
    groups: dict[str, list[Evaluation]] = {}
    ordered = sorted(evaluations, key=lambda found: (found.name, -found.epoch))
    for evaluation in ordered:
        groups.setdefault(evaluation.name, []).append(evaluation)
    return groups
