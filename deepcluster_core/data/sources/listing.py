"""A list of image files: text, or CSV/TSV with labels."""

import heapq
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import IO

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

SORTED_AT_ONCE = 500_000
"""Lines held in memory, about 150 MB; a longer list is sorted through temporary files."""

_Line = tuple[str, int, str | None]
"""Path, line number from 1, label."""
_Run = Callable[[], Iterable[_Line]]
"""Sorted lines, that can be gone through again."""


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
