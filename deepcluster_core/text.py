"""Format text for users: numbers, sizes, durations, lists, and text that is safe to print."""

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

_USER_IN_URL = re.compile(r"(?<=://)[^\s/]*@")

UNKNOWN = "–"
"""Text for a value that is missing or undefined."""


def known(value: float | None) -> TypeGuard[float]:
    """Return whether a value is present and finite."""
    return value is not None and math.isfinite(value)


def number(value: object) -> str:
    """Return a number with about four digits, and any other value as its plain text."""
    if value is None:
        return UNKNOWN
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _float_text(value: float) -> str:
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return str(value)
    if abs(value) >= 1000 or value.is_integer():
        return f"{value:,.0f}"
    # Three decimals show four digits from 1 on, and line up with the values just below.
    if 0.1 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:.4g}"


def three_decimals(value: float | None) -> str:
    """Return a number with three decimals, for columns of equal precision."""
    return f"{value:.3f}" if known(value) else UNKNOWN


def share(value: float | None) -> str:
    """Return a share, 0 to 1, in percent; with one decimal below 10 %."""
    if not known(value):
        return UNKNOWN
    if value < 0.1:
        return f"{value:.1%}"
    return f"{value:.0%}"


def listed(names: Sequence[str], *, limit: int = 5) -> str:
    """Return the first names and the number of further ones: a, b and 3 more."""
    shown = ", ".join(names[:limit])
    num_more = len(names) - limit
    if num_more <= 0:
        return shown
    return f"{shown} and {num_more:,} more"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 image, 2,000 images. The plural has an s if left out."""
    return f"1 {noun}" if count == 1 else f"{count:,} {plural or noun + 's'}"


def last_epochs(count: int) -> str:
    """Return the name of the epochs before the present one with which it was compared."""
    return "the epoch before" if count == 1 else f"the {count} epochs before"


def duration(seconds: float) -> str:
    """Return a duration in its one or two largest units: 5.3 s, 1 min 36 s, 30 h 2 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest_s} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, rest_min = divmod(minutes, 60)
    return f"{hours:,} h {rest_min} min"


def readable_size(num_bytes: float) -> str:
    """Return a number of bytes with three digits and a unit: 4.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


def printable(text: str) -> str:
    """Return text with all characters escaped that could move the cursor, colour or reorder it.

    File names come from untrusted sources and must not control the terminal.
    """
    # Most texts need no escapes, and this is called for every path that is printed.
    if text.isprintable():
        return text
    characters = list(text)
    for place, character in enumerate(characters):
        if not character.isprintable():
            characters[place] = character.encode("unicode_escape").decode()
    return "".join(characters)


def printable_lines(text: str) -> str:
    """Return several lines of text, each made printable."""
    return "\n".join(map(printable, text.split("\n")))


def shell_words(*words: str | Path) -> str:
    """Return words joined for a shell, quoted where necessary."""
    return printable(shlex.join(str(word) for word in words))


def python_text(text: str) -> str:
    """Return printable text as a Python string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def without_credentials(text: str) -> str:
    """Return text without the users and passwords in the URLs that it contains."""
    return _USER_IN_URL.sub("", text)
