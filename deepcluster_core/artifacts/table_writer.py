"""Write Parquet tables in row groups of a fixed number of rows, with a checksum on every page."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 1 << 16
"""Rows in a row group, which is what a reader or a writer of a large table holds in memory.

The text of a column stays below the 2 GiB that one piece of Arrow's type `string` can hold, even if
every path has 4 KiB and each byte is written `\\xff`. At 40 bytes a path, it is 3 MB.
"""


class TableWriter:
    """Writes a table piece by piece.

    The bytes of the file depend on its rows alone, not on the pieces that they come in.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, group_rows: int = GROUP_ROWS) -> None:
        """Open the file.

        Args:
            path: the file.
            schema: names and types of the columns.
            group_rows: rows in a row group; the last one may have fewer.
        """
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, write_page_checksum=True)
        self._held: list[pa.Table] = []
        self._num_held = 0
        self.group_rows = group_rows
        self.num_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Write the remaining rows, unless an error occurred, and close the file."""
        try:
            # A table without rows gets an empty row group.
            if kind is None and (self._num_held or self.num_rows == 0):
                self._write(self._num_held)
        finally:
            self._writer.close()

    def add(self, *columns: object) -> None:
        """Add rows, column by column in the order of the schema."""
        piece = pa.table([*columns], schema=self._schema)
        self._held.append(piece)
        self._num_held += len(piece)
        self.num_rows += len(piece)
        while self._num_held >= self.group_rows:
            self._write(self.group_rows)

    def _write(self, count: int) -> None:
        """Write the first `count` of the held rows as a row group."""
        held = pa.concat_tables(self._held or [self._schema.empty_table()])
        group = held.slice(0, count)
        # The writer may end a page where a piece ends.
        if any(column.num_chunks > 1 for column in group.columns):
            group = group.combine_chunks()
        self._writer.write_table(group, row_group_size=max(1, count))
        rest = held.slice(count)
        self._held = [rest] if len(rest) else []
        self._num_held = len(rest)
