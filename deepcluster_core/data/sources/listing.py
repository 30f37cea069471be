"""A list of image files, as plain text or as CSV or TSV with labels, as a source of images."""

import errno
import os
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

from deepcluster_core.data.sources.base import (
    SourceImage,
    displayed,
    file_facts,
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
from deepcluster_core.data.sources.list_text import ListText, StoredText
from deepcluster_core.data.sources.store_files import StoreFile, fingerprint_stored, known_files
from deepcluster_core.data.sources.store_images import stored_image
from deepcluster_core.errors import SourceError
from deepcluster_core.store_urls import Location, StoreUrl, is_store_url

FOLDERS_AT_ONCE = 8
"""Folders of a store that are looked into at once."""

IN_MEMORY_BYTES = 128 << 20
"""Memory for the lines, about a million; more of them are sorted in a temporary file."""

_Line = tuple[str, int, str | None]
"""Path, line number from 1, label."""


class ListSource:
    """The files that a list names, in the order of the bytes of their paths, not of its lines.

    A table has a header with `path` and, if there are labels, `label`; its other columns are
    ignored. A plain list has one path in a line, and possibly a label behind it; a line that begins
    with `#` is a comment. Paths are relative to the folder of the list, see `choose_reading`. A
    listed file that is missing is yielded too, and cannot be read. An entry may also be the URL of
    a file on an object store.
    """

    def __init__(self, file: Path | StoreFile, *, with_labels: bool) -> None:
        """Store the arguments; nothing is read yet."""
        self._file = file.absolute() if isinstance(file, Path) else file
        self._with_labels = with_labels

    @property
    def originals(self) -> Path | None:
        """The folder to which paths are relative: that of the list, or one above it.

        None if some images are not on this machine.
        """
        base = self._reading.base
        return base if isinstance(base, Path) and not self._stored else None

    def images(self) -> Iterator[SourceImage]:
        """See `Source`.

        Raises:
            SourceError: a path is listed twice; raised before the first image.
        """
        base, stored = self._reading.base, self._stored
        for path, number, label in self._sorted_lines():
            file = stored.get(path)
            if file is not None:
                yield stored_image(file, displayed(path), label)
            else:
                read = partial(_read, path, base, number)
                yield SourceImage(displayed(path), label, read)

    def fingerprint(self) -> str:
        """See `Source`. Labels count too; the order of the lines does not."""
        base, stored = self._reading.base, self._stored
        if isinstance(base, Path) and not stored:
            files = ((f"{path}\0{label}", base / path) for path, _, label in self._sorted_lines())
            return fingerprint_files("list", files)
        facts = (
            (f"{path}\0{label}", stored.get(path) or _local_facts(path, base))
            for path, _, label in self._sorted_lines()
        )
        return fingerprint_stored("list", facts)

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
    def _stored(self) -> dict[str, StoreFile]:
        """The listed files that are on a store, by their paths; those that are missing are not."""
        base = self._reading.base
        folders: defaultdict[StoreUrl, dict[str, str]] = defaultdict(dict)
        for path, _, _ in self._lines():
            url = _url_of(path, base)
            if url is not None and url.parent is not None:
                folders[url.parent][url.name] = path
        stored: dict[str, StoreFile] = {}
        if not folders:
            return stored
        with ThreadPoolExecutor(FOLDERS_AT_ONCE) as pool:
            found = pool.map(lambda folder: known_files(folder, [*folders[folder]]), folders)
            for folder, files in zip(folders, found, strict=True):
                for file in files:
                    stored[folders[folder][file.name]] = file
        return stored

    @cached_property
    def _text(self) -> ListText:
        if isinstance(self._file, Path):
            return ListText(self._file)
        return ListText(StoredText(self._file.url, self._file.read()))

    @cached_property
    def _reading(self) -> Reading:
        first_lines = [line for _, line, _ in islice(self._text.lines(), SURVEYED_LINES)]
        place = self._file if isinstance(self._file, Path) else self._file.url
        return choose_reading(first_lines, place, is_table=self._text.is_table)


def _url_of(path: str, base: Location) -> StoreUrl | None:
    """Return the URL of an entry; None if it is on this machine, or nowhere."""
    if is_store_url(path):
        with suppress(ValueError):  # why it cannot be used is reported where it is read
            return StoreUrl.parse(path)
    if isinstance(base, Path) or path.startswith("/") or ".." in path.split("/"):
        return None
    return base.below(path)


def _local_facts(path: str, base: Location) -> str | None:
    if isinstance(base, StoreUrl) or is_store_url(path):
        return None
    return file_facts(base / path)


def _read(path: str, base: Location, number: int) -> bytes:
    try:
        if isinstance(base, StoreUrl) or is_store_url(path):
            raise FileNotFoundError(os.strerror(errno.ENOENT))
        return read_file(base / path)
    except OSError as error:
        raise OSError(why_unreadable(error, path, base, number)) from error
