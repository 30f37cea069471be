"""A list of image files: text, or CSV/TSV with labels."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

from deepcluster_core.data.sources.base import (
    SourceImage,
    displayed,
    fingerprint_files,
    read_file,
)
from deepcluster_core.data.sources.list_entries import (
    SURVEYED_LINES,
    Reading,
    choose_reading,
    label_of_entry,
    why_unreadable,
)
from deepcluster_core.data.sources.list_text import ListText
from deepcluster_core.errors import SourceError

_Line = tuple[str, int, str | None]
"""Path, line number from 1, label."""


class ListSource:
    """The files that a list names, in the order of the bytes of their paths, not of its lines.

    A table has a header with `path` and, if there are labels, `label`; other columns are ignored.
    Any other list has a path a line, and perhaps a label behind it; a line that begins with `#` is
    a comment. Relative paths are relative to the folder of the list, see `choose_reading`. A listed
    file that is missing still comes, and cannot be read.
    """

    def __init__(self, file: Path, *, with_labels: bool) -> None:
        """Take `file`; nothing is read yet."""
        self._file = file.absolute()
        self._with_labels = with_labels

    @property
    def originals(self) -> Path:
        """The folder that paths are relative to: that of the list or, if need be, one above it."""
        return self._reading.base

    def images(self) -> Iterator[SourceImage]:
        """See `Source`. A path that is listed twice is an error, before the first image."""
        base = self._reading.base
        for path, number, label in self._sorted_lines():
            read = partial(_read, path, base, number)
            yield SourceImage(displayed(path), label, read)

    def fingerprint(self) -> str:
        """See `Source`. Labels count too; the order of the lines does not."""
        lines, base = self._sorted_lines(), self._reading.base
        files = ((f"{path}\0{label}", base / path) for path, _, label in lines)
        return fingerprint_files("list", files)

    def count(self) -> int:
        """Read the list once."""
        return sum(1 for _ in self._lines())

    def notes(self) -> list[str]:
        """See `Source`."""
        return []

    def _sorted_lines(self) -> Iterator[_Line]:
        # A database without a name is SQLite's own: in memory, and in a temporary file once large.
        with closing(sqlite3.connect("", check_same_thread=False)) as database:
            try:
                database.execute("create table lines (path blob, number integer, label text)")
                encoded = ((os.fsencode(path), *rest) for path, *rest in self._lines())
                database.executemany("insert into lines values (?, ?, ?)", encoded)
                database.execute("create index sorted on lines (path, number, label)")
            except sqlite3.OperationalError as error:
                raise OSError(f"{self._file}: cannot be sorted in TMPDIR: {error}") from error
            self._refuse_duplicates(database)
            for path, number, label in database.execute("select * from lines order by path"):
                yield os.fsdecode(path), number, label

    def _refuse_duplicates(self, database: sqlite3.Connection) -> None:
        twice = database.execute(
            "select path, min(number) from lines group by path having count(*) > 1"
        ).fetchone()
        if twice is None:
            return
        path, first = twice
        second = database.execute(
            "select min(number) from lines where path = ? and number > ?", (path, first)
        ).fetchone()[0]
        raise SourceError(
            f"{self._file}: lines {first} and {second} both name "
            f"{displayed(os.fsdecode(path))!r}.\n"
            f"  Fix: name every image once."
        )

    def _lines(self) -> Iterator[_Line]:
        reading, is_table = self._reading, self._text.is_table
        for number, line, cell in self._text.lines():
            if not is_table and reading.is_comment(line):
                continue
            path, label = (line, cell) if is_table else reading.split(line)
            yield reading.path(path), number, label_of_entry(label) if self._with_labels else None

    @cached_property
    def _text(self) -> ListText:
        return ListText(self._file)

    @cached_property
    def _reading(self) -> Reading:
        first = [line for _, line, _ in islice(self._text.lines(), SURVEYED_LINES)]
        return choose_reading(first, self._file, is_table=self._text.is_table)


def _read(path: str, base: Path, number: int) -> bytes:
    try:
        return read_file(base / path)
    except OSError as error:
        raise OSError(why_unreadable(error, path, base, number)) from error
