"""The text of a list: its encoding, its line ends, and its columns if it is a table."""

import codecs
import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any

from deepcluster_core.errors import SourceError
from deepcluster_core.store_urls import StoreUrl

Line = tuple[int, str, str | None]
"""Line number from 1; the line or, in a table, the cell of the path; the cell of the label."""

_HEAD_CHARACTERS = 4096
"""Characters at the beginning that decide about the format."""
_PREAMBLE_LINES = 100
"""Limit on the comments and blank lines above the header of a table."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')
"""The line above the header with which Excel declares the delimiter."""


@dataclass(frozen=True)
class _Header:
    """The line of a table that names its columns."""

    above: int
    """Number of lines above the header."""
    delimiter: str
    names: list[str]
    at_path: int
    """Number of the column of the paths, from 0."""
    at_label: int | None
    """Number of the column of the labels; None if the table has none."""


@dataclass(frozen=True)
class StoredText:
    """The contents of a list on a store, as far as they are used as a path is."""

    url: StoreUrl
    data: bytes

    def __str__(self) -> str:
        return self.url

    @property
    def suffix(self) -> str:
        """The extension, as `Path.suffix`."""
        return self.url.suffix

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:  # noqa: ANN401
        """Open it, as `Path.open` does."""
        contents = BytesIO(self.data)
        return contents if mode == "rb" else TextIOWrapper(contents, **options)


class ListText:
    """The unchanged lines of a list, or rows of a table.

    `.csv` and `.tsv` files are tables; so is any other file whose first line is a header with
    `path`.
    """

    def __init__(self, file: "Path | StoredText") -> None:
        """Read the beginning of `file`.

        Raises:
            SourceError: the file cannot be read, is not text, or lacks a required header.
        """
        self._file = file
        try:
            with file.open("rb") as data:
                start = data.read(2)
            # File names may hold bytes that are not UTF-8; surrogates keep them.
            self._encoding = ("utf-8-sig", "surrogateescape")
            if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                self._encoding = ("utf-16", "strict")
            self._header = self._find_header()
            self._newline = "" if self._header else self._line_end()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    @property
    def is_table(self) -> bool:
        """Whether the file has a header that names the columns of paths and labels."""
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
        """Return the characters that end each line.

        Only one kind of line end counts, because the others may be part of a file name.
        """
        with self._open("") as text:
            head = text.read(_HEAD_CHARACTERS)
        if "\0" in head:
            raise self._binary()
        # Old Macs ended lines with a carriage return alone.
        if "\r" in head and "\n" not in head:
            return "\r"
        return "\n"

    def _texts(self, text: IO[str]) -> Iterator[Line]:
        for number, line in enumerate(text, 1):
            if line.strip():
                entry = line.removesuffix("\n").removesuffix("\r")
                yield number, entry, None

    def _find_header(self) -> _Header | None:
        """Return the header of a table; None for a plain list."""
        suffix = self._file.suffix.lower()
        # The delimiter that belongs to the file's name is tried first, then the other usual ones.
        expected = _DELIMITERS.get(suffix, ",")
        delimiters = list(dict.fromkeys((expected, ",", ";", "\t")))
        first_line = ""
        with self._open("") as text:
            # Text has no NUL, but pictures and UTF-16 without a byte order mark do.
            if "\0" in text.read(_HEAD_CHARACTERS):
                raise self._binary()
            text.seek(0)
            # Comments, blank lines and Excel's separator line may precede the header.
            for above, line in enumerate(islice(text, _PREAMBLE_LINES)):
                stripped = line.strip()
                if separator := _SEPARATOR_LINE.fullmatch(stripped):
                    delimiters.insert(0, separator[1])
                    continue
                if not stripped:
                    continue
                if header := _header_in(line, above, delimiters):
                    return self._unless_named(line, header)
                if not line.startswith("#"):
                    first_line = line
                    break
        # Only a file whose name declares a table must have a header.
        if suffix not in _DELIMITERS:
            return None
        names = next(csv.reader([first_line], delimiter=delimiters[0]), [])
        raise SourceError(
            f"{self._file}: needs a column named path in its first line, has "
            f"{[name.strip() for name in names]}.\n"
            f"  Fix: name the column of the paths path, and that of the labels label; or rename "
            f"the list to .txt if every line is a path."
        )

    def _unless_named(self, line: str, header: _Header) -> _Header | None:
        """Return the header; None if it is rather the first entry of a plain list."""
        if self._file.suffix.lower() in _DELIMITERS:
            return header
        # A single cell, or a line that is the name of a file, is a path.
        if len(header.names) == 1:
            return None
        # Beside a list on a store nobody looks: `path,label` is then its header.
        if not isinstance(self._file, Path):
            return header
        entry = self._file.parent / line.rstrip("\r\n")
        return None if entry.exists() else header

    def _rows(self, text: IO[str], header: _Header) -> Iterator[Line]:
        for _ in range(header.above):
            next(text)
        rows = csv.reader(text, delimiter=header.delimiter, strict=True)
        try:
            next(rows)  # the header itself
            for row in rows:
                is_blank = not any(cell.strip() for cell in row)
                if is_blank:
                    continue
                number = header.above + rows.line_num
                self._check_row(row, header, number)
                path = row[header.at_path]
                label = None
                if header.at_label is not None:
                    label = row[header.at_label]
                yield number, path, label
        except csv.Error as error:
            raise SourceError(
                f"{self._file}: line {header.above + rows.line_num}: {error}.\n"
                f"  Fix: close every quote, and double each quote that is part of a name."
            ) from error

    def _check_row(self, row: list[str], header: _Header, number: int) -> None:
        # Most often a path contains the delimiter, and its end would be read as the label.
        if len(row) != len(header.names):
            raise SourceError(
                f"{self._file}: line {number} has {len(row)} columns, but the header has "
                f"{len(header.names)}.\n"
                f"  Fix: put a path that contains the delimiter in quotes: "
                f'"a{header.delimiter} b.jpg"'
            )
        if not row[header.at_path].strip():
            raise SourceError(
                f"{self._file}: line {number} has no path.\n  Fix: add one, or delete the line."
            )

    def _binary(self) -> SourceError:
        return SourceError(
            f"{self._file}: is not a list in UTF-8 text: it contains NUL characters.\n"
            f"  Fix: save it as UTF-8 (UTF-16 is read only if it begins with a byte order mark), "
            f"or give the folder of the images."
        )

    def _unreadable(self, error: OSError | UnicodeDecodeError) -> SourceError:
        if isinstance(error, UnicodeDecodeError):
            return SourceError(
                f"{self._file}: has a byte order mark of UTF-16, but is not UTF-16 "
                f"({error.reason}).\n  Fix: save it as UTF-8."
            )
        return SourceError(
            f"{self._file}: cannot be read ({error.strerror}).\n  Fix: make it readable."
        )


def _header_in(line: str, above: int, delimiters: list[str]) -> _Header | None:
    """Return the header of a table; None if no delimiter yields a cell `path`."""
    for delimiter in delimiters:
        cells = next(csv.reader([line], delimiter=delimiter), [])
        names = [name.strip() for name in cells]
        at_path = _place("path", names)
        if at_path is not None:
            at_label = _place("label", names)
            return _Header(above, delimiter, names, at_path, at_label)
    return None


def _place(wanted: str, names: list[str]) -> int | None:
    """Return the column with this name; case is ignored if no name matches exactly."""
    lower_names = [name.lower() for name in names]
    for candidates in (names, lower_names):
        if wanted in candidates:
            return candidates.index(wanted)
    return None
