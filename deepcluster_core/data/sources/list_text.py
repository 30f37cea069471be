"""The text of a list: its encoding, its line ends, and its columns if it is a table."""

import codecs
import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from deepcluster_core.errors import SourceError

Line = tuple[int, str, str | None]
"""Number from 1; the line or, of a table, the cell of the path; the cell of the label."""

_HEAD_CHARACTERS = 4096
_PREAMBLE_LINES = 100
"""Comments and blank lines above the header of a table, at most."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')
"""What Excel writes above the header for itself."""


@dataclass(frozen=True)
class _Header:
    above: int
    """Lines before it."""
    delimiter: str
    names: list[str]
    at_path: int
    at_label: int | None


class ListText:
    """The lines of a list, or the rows of a table, as they stand.

    `.csv` and `.tsv` are tables; so is any other file whose first line is a header with `path`.
    """

    def __init__(self, file: Path) -> None:
        """Look at the beginning of `file`.

        Raises:
            SourceError: the file cannot be read, is not text, or lacks a required header.
        """
        self._file = file
        try:
            with file.open("rb") as data:
                start = data.read(2)
            is_utf16 = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            self._encoding = ("utf-16", "strict") if is_utf16 else ("utf-8-sig", "surrogateescape")
            self._header = self._find_header()
            self._newline = "" if self._header else self._line_end()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    @property
    def is_table(self) -> bool:
        """Whether paths and labels have columns of their own."""
        return self._header is not None

    def lines(self) -> Iterator[Line]:
        """Yield all lines that are not blank.

        Raises:
            SourceError: the file cannot be read, or a row of a table is malformed.
        """
        try:
            with self._open(self._newline) as text:
                if self._header is None:
                    yield from self._texts(text)
                else:
                    yield from self._rows(text, self._header)
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    @contextmanager
    def _open(self, newline: str) -> Iterator[IO[str]]:
        encoding, errors = self._encoding
        with self._file.open(encoding=encoding, errors=errors, newline=newline) as text:
            yield text

    def _line_end(self) -> str:
        """Return what ends a line. Only one thing does: names of files may hold the others."""
        with self._open("") as text:
            head = text.read(_HEAD_CHARACTERS)
        if "\0" in head:
            raise self._binary()
        return "\r" if "\r" in head and "\n" not in head else "\n"

    def _texts(self, text: IO[str]) -> Iterator[Line]:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, line.removesuffix("\n").removesuffix("\r"), None

    def _find_header(self) -> _Header | None:
        suffix = self._file.suffix.lower()
        first, delimiters = "", [*dict.fromkeys((_DELIMITERS.get(suffix, ","), ",", ";", "\t"))]
        with self._open("") as text:
            if "\0" in text.read(_HEAD_CHARACTERS):
                raise self._binary()
            text.seek(0)
            for above, line in enumerate(islice(text, _PREAMBLE_LINES)):
                if separator := _SEPARATOR_LINE.fullmatch(line.strip()):
                    delimiters.insert(0, separator[1])
                elif line.strip() and (header := _header_in(line, above, delimiters)):
                    return self._unless_named(line, header)
                elif line.strip() and not line.startswith("#"):
                    first = line
                    break
        if suffix not in _DELIMITERS:
            return None
        names = next(csv.reader([first], delimiter=delimiters[0]), [])
        raise SourceError(
            f"{self._file}: needs a column named path in its first line, has "
            f"{[name.strip() for name in names]}.\n"
            f"  Fix: name the column of the paths path, and that of the labels label; or rename "
            f"the list to .txt if every line is a path."
        )

    def _unless_named(self, line: str, header: _Header) -> _Header | None:
        """Return the header, unless a plain list begins with a file of that very name."""
        is_name = self._file.suffix.lower() not in _DELIMITERS and (
            len(header.names) == 1 or (self._file.parent / line.rstrip("\r\n")).exists()
        )
        return None if is_name else header

    def _rows(self, text: IO[str], header: _Header) -> Iterator[Line]:
        for _ in range(header.above):
            next(text)
        rows = csv.reader(text, delimiter=header.delimiter, strict=True)
        try:
            next(rows)
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                number = header.above + rows.line_num
                self._check_row(row, header, number)
                label = None if header.at_label is None else row[header.at_label]
                yield number, row[header.at_path], label
        except csv.Error as error:
            raise SourceError(
                f"{self._file}: line {header.above + rows.line_num}: {error}.\n"
                f"  Fix: close every quote, and write one that is part of a name twice."
            ) from error

    def _check_row(self, row: list[str], header: _Header, number: int) -> None:
        if len(row) != len(header.names):
            raise SourceError(
                f"{self._file}: line {number} has {len(row)} columns, the header "
                f"{len(header.names)}.\n"
                f'  Fix: put a path that holds the delimiter in quotes: "a{header.delimiter} b.jpg"'
            )
        if not row[header.at_path].strip():
            raise SourceError(
                f"{self._file}: line {number} has no path.\n  Fix: write one, or delete the line."
            )

    def _binary(self) -> SourceError:
        return SourceError(
            f"{self._file}: is not a list in UTF-8 text: it holds NUL characters.\n"
            f"  Fix: save it as UTF-8 (UTF-16 is read only if it begins with a byte order mark), "
            f"or name the folder of the images."
        )

    def _unreadable(self, error: OSError | UnicodeDecodeError) -> SourceError:
        if isinstance(error, UnicodeDecodeError):
            return SourceError(
                f"{self._file}: is not UTF-16, though its byte order mark says so ({error.reason})."
                f"\n  Fix: save it as UTF-8."
            )
        return SourceError(
            f"{self._file}: cannot be read ({error.strerror}).\n  Fix: make it readable."
        )


def _header_in(line: str, above: int, delimiters: list[str]) -> _Header | None:
    """Return the header of a table; None if no cell is `path` with any of the delimiters."""
    for delimiter in delimiters:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        at_path = _place("path", names)
        if at_path is not None:
            return _Header(above, delimiter, names, at_path, _place("label", names))
    return None


def _place(wanted: str, names: list[str]) -> int | None:
    """Return the column of this name, in capitals only if no other one has it."""
    for candidates in (names, [name.lower() for name in names]):
        if wanted in candidates:
            return candidates.index(wanted)
    return None
