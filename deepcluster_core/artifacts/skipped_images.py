"""Write skipped.parquet, the images that cannot be used, while an index is made."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from deepcluster_core.artifacts.table_writer import TableWriter
from deepcluster_core.data.unreadable import Reasons

SCHEMA = pa.schema({"path": pa.string(), "reason": pa.string()})
NUM_EXAMPLES = 5
PIECE_ROWS = 1024
"""Rows that are turned into a piece of the table at once, because each piece costs 20 µs."""


class SkippedImages:
    """Writes the table of skipped images, and keeps a summary of it: its rows are not kept."""

    def __init__(self, path: Path) -> None:
        """Open the file, which also exists if no image is skipped: readers need not check."""
        self._table = TableWriter(path, SCHEMA)
        self._paths: list[str] = []
        self._reasons: list[str] = []
        self.num_images = 0
        self.num_left_out = 0
        """How many of them are left out on purpose."""
        self.num_missing = 0
        """How many do not exist."""
        self.examples: list[str] = []
        """The first images that are lost, each with its reason, in one line."""
        self.reasons = Reasons()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Write the remaining rows, even after an error: they may explain it."""
        with self._table:
            self._flush()

    def add(self, path: str, reason: str, *, is_loss: bool = True) -> None:
        """Record an image that cannot be used, or is left out on purpose (no loss)."""
        self._paths.append(path)
        self._reasons.append(reason)
        self.num_images += 1
        if is_loss:
            self._summarise(path, reason)
        else:
            self.num_left_out += 1
        if len(self._paths) == PIECE_ROWS:
            self._flush()

    def _summarise(self, path: str, reason: str) -> None:
        """Count an image that is lost."""
        self.reasons.add(reason)
        if reason.startswith("No such file"):
            self.num_missing += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(f"{path}: {reason}".replace("\n", "\\n"))

    def listed(self) -> str:
        """Return the examples as lines of a message."""
        return "".join(f"\n    {example}" for example in self.examples)

    def _flush(self) -> None:
        self._table.add(self._paths, self._reasons)
        self._paths, self._reasons = [], []
