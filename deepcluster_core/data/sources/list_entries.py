"""From an entry of a list to a file: other spellings of a path, labels behind it, and its base."""

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
from deepcluster_core.local_paths import is_url, missing_hint, url_problem

log = logging.getLogger(__name__)

SURVEYED_LINES = 256
"""Lines from which it is found out how a list is to be read."""

_NO_LABEL = frozenset({"", "nan", "null", "<na>", "#n/a"})
"""In lower case: how tables of other programs write that there is no label."""

Split = Callable[[str], tuple[str, str | None]]
"""From a line to a path and, if there is one, a label."""


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
    if not path or is_image_name(label):  # a line without a label
        return line, None
    return path.rstrip(), label


def _numbered(line: str) -> tuple[str, str | None]:
    """Take a line of MXNet's: number, labels, path, with tabs between them."""
    cells = line.split("\t")
    return cells[-1], cells[1] if len(cells) == 3 else None


_SPLITS: tuple[Split, ...] = (_whole, _by_tab, _by_blank, _by_comma, _by_semicolon, _numbered)


def label_of(text: str | None) -> str | None:
    """Return a label as valid UTF-8, or None for what stands for a missing one."""
    label = displayed(_from_ansi(text or "")).strip()
    return None if label.lower() in _NO_LABEL else label


# How a list is read


@dataclass(frozen=True)
class Reading:
    """How all lines of a list are read; different ways are never mixed."""

    base: Path
    """The folder to which relative paths are relative."""

    split: Split = _whole

    def is_comment(self, line: str) -> bool:
        """Return whether a line begins with `#` and is not the name of a file."""
        return line.startswith("#") and existing(line, self.base) is None

    def path(self, text: str) -> str:
        """Return the path that an entry means: relative to the base, or absolute.

        Where no file is named exactly so, other spellings are tried, see `_spellings`.
        """
        if _is_ordinary(text):  # millions of them: no file is looked at
            return _plain(text)
        return existing(text, self.base) or _plain(text)


def choose_reading(lines: Sequence[str], file: Path, *, is_table: bool) -> Reading:
    """Return how a list is read, from its first lines.

    Paths are relative to the folder of the list, or else to the nearest folder above it under which
    at least half of these lines name a file. Never to the working folder: what a list means must
    not depend on where the program is started. In the same way it is found out whether a label
    follows each path: a line is a path as a whole, unless at least half of them name a file only
    without what stands behind the last tab, blank, comma or semicolon.

    Args:
        lines: without their ends; of a table the cells that hold paths.
        file: the list.
        is_table: labels have a column of their own.
    """
    folder = file.parent
    splits = (_whole,) if is_table else _SPLITS
    sample = [line for line in lines if not line.startswith("#")]
    counts: dict[Reading, int] = {}
    for base in (folder, *folder.parents):
        for split in splits:
            reading = Reading(base, split)
            counts[reading] = sum(existing(split(line)[0], base) is not None for line in sample)
            if 2 * counts[reading] >= len(sample):
                if base != folder:
                    _log_base(file, base)
                return reading
    return max((reading for reading in counts if reading.base == folder), key=counts.__getitem__)


@cache  # once, however often a command opens the list
def _log_base(file: Path, base: Path) -> None:
    log.warning("%s: its paths are read relative to %s, not to its own folder", file, base)


# Spellings of a path


def existing(text: str, base: Path) -> str | None:
    """Return the first spelling of an entry that is there, relative to `base`; None if none is."""
    spellings = list(_spellings(text))
    for spelling in spellings:
        if os.path.exists(base / spelling):  # noqa: PTH110  Path.exists raises for long names
            return _plain(spelling)
    for spelling in spellings:
        if not spelling.isascii() and (same := _equivalent(spelling, base)) is not None:
            return same
    return None


def _is_ordinary(text: str) -> bool:
    """Return whether an entry has one spelling only."""
    return text.isascii() and "\\" not in text and len(list(_spellings(text))) == 1


def _spellings(text: str) -> Iterator[str]:
    """Yield an entry as it stands, then with one change after the other, if it changes anything."""
    yield text
    for change in (str.strip, _unquoted, _without_scheme, _with_home, _with_slashes, _from_ansi):
        if (changed := change(text)) != text:
            text = changed
            yield text


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] in "\"'" and text[0] == text[-1] else text


def _without_scheme(text: str) -> str:
    is_file = re.match(r"file:(//localhost(?=/)|//(?=/))?(?=/)", text, re.IGNORECASE)
    return unquote(text[is_file.end() :]) if is_file else text


def _with_home(text: str) -> str:
    return os.path.expanduser(text) if text.startswith("~") else text  # noqa: PTH111


def _with_slashes(text: str) -> str:
    return text.replace("\\", "/")


def _from_ansi(text: str) -> str:
    """Return a text that is not UTF-8 as Windows' western code page reads its bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode("cp1252")
        except UnicodeDecodeError:
            return text
    return text


def _equivalent(text: str, base: Path) -> str | None:
    """Return the path that has the same name in Unicode: é as one character, or as e and an accent.

    macOS and zip files decompose names, most programs do not; each folder on the way may differ.
    """
    found = PurePosixPath()
    for part in PurePosixPath(text).parts:
        at = base / found
        if not os.path.exists(at / part):  # noqa: PTH110  as above
            try:
                names = _composed_names(at, at.stat().st_mtime_ns)
            except (OSError, ValueError):
                return None
            part = names.get(unicodedata.normalize("NFC", part))  # noqa: PLW2901
            if part is None:
                return None
        found /= part
    return str(found)


@lru_cache(maxsize=16)
def _composed_names(folder: Path, _changed_ns: int) -> dict[str, str]:
    names = (name for name in os.listdir(folder) if not name.isascii())  # noqa: PTH208  names alone
    return {unicodedata.normalize("NFC", name): name for name in names}


def _plain(path: str) -> str:
    """Return `path` without `./` and doubled slashes, so that equal paths look equal."""
    return str(PurePosixPath(path))


# What is wrong with one


def why_unreadable(error: OSError, path: str, base: Path, number: int) -> str:
    """Return why an entry cannot be read, with its line and where it was looked for.

    Args:
        error: what reading it raised.
        path: as `Reading.path` returned it.
        base: of the list's paths.
        number: of its line.
    """
    place = base / path
    if is_url(path):
        return f"line {number} {url_problem(path)}"
    if place.is_dir():
        return f"line {number} names a folder, not a file: {place}"
    if os.path.lexists(place):
        return f"{error} (line {number})"
    elsewhere = ""
    if os.path.lexists(path):
        elsewhere = f"; it is in the working folder {Path.cwd()}, but lists do not look there"
    return f"{error}: line {number}, looked for {place}{missing_hint(Path(path))}{elsewhere}"
