"""A list of image files, as plain text or as CSV or TSV with labels, as a source of images."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
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

IN_MEMORY_BYTES = 128 << 20
"""Memory for the lines, about a million; more of them are sorted in a temporary file."""

_Line = tuple[str, int, str | None]
"""Path, line number from 1, label."""


class ListSource:
    """The files that a list names, in the order of the bytes of their paths, not of its lines.

    A table has a header with `path` and, if there are labels, `label`; its other columns are
    ignored. A plain list has one path in a line, and possibly a label behind it; a line that begins
    with `#` is a comment. Paths are relative to the folder of the list, see `choose_reading`. A
    listed file that is missing is yielded too, and cannot be read.
    """

    def __init__(self, file: Path, *, with_labels: bool) -> None:
        """Store the arguments; nothing is read yet."""
        self._file = file.absolute()
        self._with_labels = with_labels

    @property
    def originals(self) -> Path:
        """The folder to which paths are relative: that of the list, or one above it."""
        return self._reading.base

    def images(self) -> Iterator[SourceImage]:
        """See `Source`.

        Raises:
            SourceError: a path is listed twice; raised before the first image.
        """
        base = self._reading.base
        for path, number, label in self._sorted_lines():
            read = partial(_read, path, base, number)
            yield SourceImage(displayed(path), label, read)

    def fingerprint(self) -> str:
        """See `Source`. Labels count too; the order of the lines does not."""
        base = self._reading.base
        files = ((f"{path}\0{label}", base / path) for path, _, label in self._sorted_lines())
        return fingerprint_files("list", files)

    def count(self) -> int:
        """Count the lines that name an image, by reading the list once."""
        return sum(1 for _ in self._lines())

    def notes(self) -> list[str]:
        """See `Source`."""
        return []

    def _sorted_lines(self) -> Iterator[_Line]:
        """Yield the lines in the order of their paths.

        Raises:
            SourceError: two lines have the same path.
        """
        # A database without a name is in memory, and in a temporary file once it is large.
        with closing(sqlite3.connect("", check_same_thread=False)) as database:
            with self._explain_full_disk():
                database.execute(f"pragma cache_size = {-IN_MEMORY_BYTES // 1024}")
                database.execute("create table lines (path blob, number integer, label text)")
                # Bytes, because SQLite's text cannot hold names that are not UTF-8.
                rows = ((os.fsencode(path), *rest) for path, *rest in self._lines())
                database.executemany("insert into lines values (?, ?, ?)", rows)
                database.execute("create index sorted on lines (path, number, label)")
                # All duplicates are found before the first line is yielded.
                self._check_duplicates(database)
            for path, number, label in database.execute("select * from lines order by path"):
                yield os.fsdecode(path), number, label

    @contextmanager
    def _explain_full_disk(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise SourceError(
                f"{self._file}: too long to be sorted in memory, and not in the folder for "
                f"temporary files either ({error}).\n"
                f"  Fix: make room in {tempfile.gettempdir()}, or set TMPDIR to another folder."
            ) from error

    def _check_duplicates(self, database: sqlite3.Connection) -> None:
        repeated = database.execute(
            "select path, min(number) from lines group by path having count(*) > 1"
        ).fetchone()
        if repeated is None:
            return
        raw_path, first = repeated
        (second,) = database.execute(
            "select min(number) from lines where path = ? and number > ?", (raw_path, first)
        ).fetchone()
        path = displayed(os.fsdecode(raw_path))
        raise SourceError(
            f"{self._file}: lines {first} and {second} both name {path!r}.\n"
            f"  Fix: name every image once."
        )

    def _lines(self) -> Iterator[_Line]:
        """Yield the lines that name an image, in the order of the list."""
        reading, is_table = self._reading, self._text.is_table
        for number, line, cell in self._text.lines():
            # Only plain lists have comments, and labels in the same text as the path.
            if is_table:
                entry, raw_label = line, cell
            elif reading.is_comment(line):
                continue
            else:
                entry, raw_label = reading.split(line)
            label = label_of_entry(raw_label) if self._with_labels else None
            yield reading.path(entry), number, label

    @cached_property
    def _text(self) -> ListText:
        return ListText(self._file)

    @cached_property
    def _reading(self) -> Reading:
        first_lines = [line for _, line, _ in islice(self._text.lines(), SURVEYED_LINES)]
        return choose_reading(first_lines, self._file, is_table=self._text.is_table)


def _read(path: str, base: Path, number: int) -> bytes:
    try:
        return read_file(base / path)
    except OSError as error:
        raise OSError(why_unreadable(error, path, base, number)) from error
