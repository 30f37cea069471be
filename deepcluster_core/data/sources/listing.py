"""A list of image files: text, or CSV/TSV with labels."""

import csv
import heapq
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from deepcluster_core.data.sources.base import (
    SourceImage,
    displayed,
    fingerprint_files,
    read_file,
)
from deepcluster_core.errors import SourceError

SORTED_AT_ONCE = 500_000
"""Lines held in memory, about 150 MB; a longer list is sorted through temporary files."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_Line = tuple[str, int, str | None]
"""Path, line number from 1, label."""
_Run = Callable[[], Iterable[_Line]]
"""Sorted lines, that can be gone through again."""


class ListSource:
    """The files that a list names, in the order of the bytes of their paths, whatever its own.

    `.csv` and `.tsv`: a header with `path` and, if there are labels, `label`; other columns are
    ignored, an empty label is none. Any other file: one path a line, no labels. Paths are relative
    to the list's folder, or absolute; `./` in front means nothing. Text is UTF-8. A listed file
    that is missing still comes, and cannot be read.
    """

    def __init__(self, file: Path, *, with_labels: bool) -> None:
        """Take `file`; nothing is read yet."""
        self._file = file.absolute()
        self._with_labels = with_labels

    @property
    def originals(self) -> Path:
        """The folder of the list: paths are relative to it."""
        return self._file.parent

    def images(self) -> Iterator[SourceImage]:
        """See `Source`. A path that is listed twice is an error, before the first image."""
        for path, _, label in self._sorted_lines():
            read = partial(read_file, self._file.parent / path)
            yield SourceImage(displayed(path), label, read)

    def fingerprint(self) -> str:
        """See `Source`. Labels count too; the order of the lines does not."""
        lines = self._sorted_lines()
        files = ((f"{path}\0{label}", self._file.parent / path) for path, _, label in lines)
        return fingerprint_files("list", files)

    def count(self) -> int:
        """Read the list once."""
        return sum(1 for _ in self._lines())

    def notes(self) -> list[str]:
        """See `Source`."""
        return []

    def _sorted_lines(self) -> Iterator[_Line]:
        with ExitStack() as files:
            runs = list(_runs(self._lines(), files))
            self._refuse_duplicates(_merged(runs))
            yield from _merged(runs)

    def _refuse_duplicates(self, lines: Iterable[_Line]) -> None:
        previous: _Line | None = None
        for line in lines:
            if previous is not None and line[0] == previous[0]:
                raise SourceError(
                    f"{self._file}: lines {previous[1]} and {line[1]} both name "
                    f"{displayed(line[0])!r}.\n"
                    f"  Fix: name every image once."
                )
            previous = line

    def _lines(self) -> Iterator[_Line]:
        delimiter = _DELIMITERS.get(self._file.suffix.lower())
        # Only \n ends a line of text: file names may hold the other line breaks Python knows.
        newline = "\n" if delimiter is None else ""
        try:
            with self._file.open(
                encoding="utf-8-sig", errors="surrogateescape", newline=newline
            ) as text:
                self._refuse_binary(text)
                yield from self._texts(text) if delimiter is None else self._table(text, delimiter)
        except OSError as error:
            raise SourceError(
                f"{self._file}: cannot be read ({error.strerror}).\n  Fix: make it readable."
            ) from error

    def _refuse_binary(self, text: IO[str]) -> None:
        if "\0" in text.read(4096):
            raise SourceError(
                f"{self._file}: is not a list in UTF-8 text.\n"
                f"  Fix: save it as UTF-8 (UTF-16 is not read), or name the folder of the images."
            )
        text.seek(0)

    def _texts(self, text: Iterable[str]) -> Iterator[_Line]:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield _plain(line.removesuffix("\n").removesuffix("\r")), number, None

    def _table(self, text: Iterable[str], delimiter: str) -> Iterator[_Line]:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            if "path" not in header:
                raise SourceError(
                    f"{self._file}: needs a column named path in its first line, has {header}.\n"
                    f"  Fix: write the header path{delimiter}label, or rename the list to .txt if "
                    f"every line is a path."
                )
            at_path = header.index("path")
            at_label = header.index("label") if self._with_labels and "label" in header else None
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                self._check_row(row, header, rows.line_num, at_path)
                label = None if at_label is None else displayed(row[at_label].strip()) or None
                yield _plain(row[at_path]), rows.line_num, label
        except csv.Error as error:
            raise SourceError(
                f"{self._file}: line {rows.line_num}: {error}.\n"
                f"  Fix: close every quote, and write one that is part of a name twice."
            ) from error

    def _check_row(self, row: list[str], header: list[str], number: int, at_path: int) -> None:
        if len(row) != len(header):
            raise SourceError(
                f"{self._file}: line {number} has {len(row)} columns, the header {len(header)}.\n"
                f'  Fix: put a path that holds the delimiter in quotes: "a, b.jpg"'
            )
        if not row[at_path].strip():
            raise SourceError(
                f"{self._file}: line {number} has no path.\n  Fix: write one, or delete the line."
            )


def _plain(path: str) -> str:
    """Return `path` without `./` and doubled slashes, so that equal paths look equal."""
    return str(PurePosixPath(path))


def _order(line: _Line) -> tuple[bytes, int]:
    return os.fsencode(line[0]), line[1]


def _merged(runs: list[_Run]) -> Iterator[_Line]:
    return heapq.merge(*(run() for run in runs), key=_order)


def _runs(lines: Iterator[_Line], files: ExitStack) -> Iterator[_Run]:
    """Yield sorted runs of the lines: one in memory if that is all, else each in a file."""
    run = sorted(islice(lines, SORTED_AT_ONCE), key=_order)
    if len(run) < SORTED_AT_ONCE:
        yield partial(list, run)
        return
    while run:
        file = files.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
        # JSON in ASCII: keeps line breaks and bytes that are not UTF-8 in one line each.
        file.writelines(json.dumps(line) + "\n" for line in run)
        yield partial(_read_run, file)
        run = sorted(islice(lines, SORTED_AT_ONCE), key=_order)


def _read_run(file: IO[str]) -> Iterator[_Line]:
    file.seek(0)
    for line in file:
        path, number, label = json.loads(line)
        yield path, number, label
