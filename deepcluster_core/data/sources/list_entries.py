"""Find the file that an entry of a list names: its base folder, its spelling, and its label."""

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from deepcluster_core.data.sources.base import displayed, is_image_name
from deepcluster_core.data.sources.labels import label_of
from deepcluster_core.data.sources.store_files import known_files
from deepcluster_core.local_paths import is_url, missing_hint, url_problem
from deepcluster_core.store_urls import Location, StoreUrl, is_store_url

log = logging.getLogger(__name__)

SURVEYED_STORED = 16
"""Number of those lines for a list on a store, where each costs a request."""
SURVEYED_LINES = 256
"""Number of lines at the beginning that decide how a list is read."""

Split = Callable[[str], tuple[str, str | None]]
"""Splits a line into a path and a label; the label is None if the line has none."""


# Labels behind paths


def _whole(line: str) -> tuple[str, str | None]:
    return line, None


def _by_tab(line: str) -> tuple[str, str | None]:
    return _divided(line, "\t")


def _by_blank(line: str) -> tuple[str, str | None]:
    return _divided(line.rstrip(), " ")


def _by_comma(line: str) -> tuple[str, str | None]:
    return _divided(line, ",")


def _by_semicolon(line: str) -> tuple[str, str | None]:
    return _divided(line, ";")


def _divided(line: str, separator: str) -> tuple[str, str | None]:
    path, _, label = line.rpartition(separator)
    # The separator is missing, or it is a part of the path in a line without a label.
    if not path or is_image_name(label):
        return line, None
    return path.rstrip(), label


def _numbered(line: str) -> tuple[str, str | None]:
    """Split a line of an MXNet list: number, labels and path, separated by tabs."""
    cells = line.split("\t")
    path = cells[-1]
    # Exactly one label counts: an image with several has no single class.
    if len(cells) != 3:
        return path, None
    return path, cells[1]


_SPLITS: tuple[Split, ...] = (_whole, _by_tab, _by_blank, _by_comma, _by_semicolon, _numbered)


def label_of_entry(text: str | None) -> str | None:
    """Return the label of an entry, decoded; None if it is missing."""
    decoded = _from_ansi(text or "")
    return label_of(displayed(decoded))


# How a list is read


@dataclass(frozen=True)
class Reading:
    """How a list is read; all of its lines are read in one way."""

    base: Location
    """The folder to which paths are relative."""

    split: Split = _whole
    """Separates the label from the path of a line."""

    def is_comment(self, line: str) -> bool:
        """Return whether a line begins with `#` and is not the name of a file."""
        return line.startswith("#") and existing(line, self.base) is None

    def path(self, text: str) -> str:
        """Return the path that an entry means: relative to the base, or absolute.

        If no file has exactly this name, other spellings are tried, see `_spellings`.
        """
        # Most lists have only such entries, perhaps millions: no file is checked for them.
        if _is_ordinary(text) or (isinstance(self.base, StoreUrl) and _has_one_spelling(text)):
            return _plain(text)
        return existing(text, self.base) or _plain(_with_home(text))


def choose_reading(lines: Sequence[str], file: Location, *, is_table: bool) -> Reading:
    """Return how a list is read, decided by its first lines.

    A reading fits if at least half of the lines name an existing file. Paths are first taken as
    relative to the folder of the list, then to the folders above it, from the nearest up. The
    working folder is never tried: what a list means must not depend on where the program is
    started. For each base, a line is read as a path, then as a path with a label behind the last
    tab, blank, comma or semicolon, and last as a line of MXNet.

    Args:
        lines: lines without their ends; in a table, the cells that hold paths.
        file: the list.
        is_table: whether labels have a column of their own.
    """
    folder, *above = _folders_above(file)
    splits = (_whole,) if is_table else _SPLITS
    sample = [line for line in lines if not line.startswith("#")]
    if isinstance(folder, StoreUrl):
        sample = sample[:SURVEYED_STORED]
    num_existing: dict[Reading, int] = {}
    for base in (folder, *above):
        for split in splits:
            reading = Reading(base, split)
            num_existing[reading] = _count_existing(sample, reading)
            if 2 * num_existing[reading] >= len(sample):
                if base != folder:
                    _log_base(file, base)
                return reading
    # No reading fits, so most files are missing; errors then name paths beside the list.
    beside_list = [reading for reading in num_existing if reading.base == folder]
    return max(beside_list, key=num_existing.__getitem__)


def _folders_above(file: Location) -> list[Location]:
    """Return the folder of a file and those above it, from the nearest up."""
    if isinstance(file, Path):
        return [*file.parents]
    folders: list[Location] = []
    folder = file.parent
    while folder is not None:
        folders.append(folder)
        folder = folder.parent
    return folders


def _count_existing(lines: Sequence[str], reading: Reading) -> int:
    """Return how many lines name an existing file if they are read in this way."""
    count = 0
    for line in lines:
        path, _ = reading.split(line)
        if existing(path, reading.base) is not None:
            count += 1
    return count


@cache  # so that a command which opens the list several times logs this once
def _log_base(file: Location, base: Location) -> None:
    log.warning("%s: its paths are read relative to %s, not to its own folder", file, base)


# Spellings of a path


def existing(text: str, base: Location) -> str | None:
    """Return the first spelling of an entry that exists relative to `base`, or None.

    URLs of object stores count as existing.
    """
    spellings = list(_spellings(text))
    for spelling in spellings:
        if is_store_url(spelling) or _exists(spelling, base):
            return _plain(spelling)
    if isinstance(base, StoreUrl):
        return None
    # Comparing Unicode forms lists folders, so it is tried last.
    for spelling in spellings:
        if spelling.isascii():
            continue
        equivalent = _equivalent(spelling, base)
        if equivalent is not None:
            return equivalent
    return None


def _exists(text: str, base: Location) -> bool:
    if isinstance(base, Path):
        return os.path.exists(base / text)  # noqa: PTH110  Path.exists raises for long names
    return _is_stored(base, _plain(text))


def _is_stored(base: StoreUrl, name: str) -> bool:
    url = base.below(name)
    if name.startswith("/") or ".." in name.split("/") or url.parent is None:
        return False
    return bool(known_files(url.parent, [url.name]))


def _is_ordinary(text: str) -> bool:
    """Return whether an entry has one spelling only."""
    if not text.isascii() or "\\" in text:
        return False
    return _has_one_spelling(text)


def _has_one_spelling(text: str) -> bool:
    return len(list(_spellings(text))) == 1


def _spellings(text: str) -> Iterator[str]:
    """Yield an entry unchanged, then after each of a series of changes that alters it."""
    yield text
    for change in (str.strip, _unquoted, _without_scheme, _with_home, _with_slashes, _from_ansi):
        changed = change(text)
        if changed != text:
            text = changed
            yield text


def _unquoted(text: str) -> str:
    if len(text) <= 2:
        return text
    first, last = text[0], text[-1]
    if first == last and first in ('"', "'"):
        return text[1:-1]
    return text


def _without_scheme(text: str) -> str:
    scheme = re.match(r"file:(//localhost(?=/)|//(?=/))?(?=/)", text, re.IGNORECASE)
    if scheme is None:
        return text
    return unquote(text[scheme.end() :])


def _with_home(text: str) -> str:
    if not text.startswith("~"):
        return text
    return os.path.expanduser(text)  # noqa: PTH111  Path.expanduser raises for unknown users


def _with_slashes(text: str) -> str:
    return text.replace("\\", "/")


def _from_ansi(text: str) -> str:
    """Return bytes that are not UTF-8 as text in the Windows code page of Western Europe."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode("cp1252")
        except UnicodeDecodeError:
            return text
    return text


def _equivalent(text: str, base: Path) -> str | None:
    """Return the existing path that differs from an entry only in its Unicode form, or None.

    An é is one character, or an e and an accent. macOS and zip files store the second form, most
    programs write the first, and each folder of a path may have either.
    """
    found = PurePosixPath()
    for part in PurePosixPath(text).parts:
        folder = base / found
        name: str | None = part
        if not os.path.exists(folder / part):  # noqa: PTH110  Path.exists raises for long names
            try:
                names = _composed_names(folder, folder.stat().st_mtime_ns)
            except (OSError, ValueError):
                return None
            name = names.get(unicodedata.normalize("NFC", part))
        if name is None:
            return None
        found /= name
    return str(found)


@lru_cache(maxsize=16)
def _composed_names(folder: Path, _changed_ns: int) -> dict[str, str]:
    """Return composed names -> names on disk; `_changed_ns` renews the cache if files are added."""
    names: dict[str, str] = {}
    for name in os.listdir(folder):  # noqa: PTH208  names alone
        if not name.isascii():
            composed = unicodedata.normalize("NFC", name)
            names[composed] = name
    return names


def _plain(path: str) -> str:
    """Return `path` without `./` and doubled slashes, so that equal paths are equal strings."""
    if is_store_url(path):
        try:
            return StoreUrl.parse(path)
        except ValueError:
            return path  # why it cannot be used is reported where it is read
    return str(PurePosixPath(path))


# Why an entry cannot be read


def why_unreadable(error: OSError, path: str, base: Location, number: int) -> str:
    """Return why an entry cannot be read, with its line number and the path that was tried.

    Args:
        error: the error that reading it raised.
        path: the path that `Reading.path` returned.
        base: the folder to which the paths of the list are relative.
        number: its line number.
    """
    if is_store_url(path) or isinstance(base, StoreUrl):
        place = path if is_store_url(path) else f"{base}/{path}"
        return f"{error}: line {number}, looked for {place}"
    place = base / path
    if is_url(path):
        return f"line {number} {url_problem(path)}"
    if place.is_dir():
        return f"line {number} names a folder, not a file: {place}"
    if os.path.lexists(place):
        return f"{error} (line {number})"
    hint = missing_hint(Path(path))
    if os.path.lexists(path):
        hint += f"; it is in the working folder {Path.cwd()}, but lists do not look there"
    return f"{error}: line {number}, looked for {place}{hint}"
