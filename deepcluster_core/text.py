"""Text for people: lists of names, sizes, durations, and what is safe to print on a terminal."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def listed(names: Sequence[str], *, limit: int = 5) -> str:
    """Return the first names, and how many more there are: a, b and 3 more."""
    shown = ", ".join(names[:limit])
    more = len(names) - limit
    return f"{shown} and {more:,} more" if more > 0 else shown


def readable_size(num_bytes: float) -> str:
    """Return a number of bytes with three digits: 4.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


def duration(seconds: float) -> str:
    """Return whole seconds as hours, minutes and seconds: 1 h 2 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number:,} {unit}" for number, unit in parts if number) or "0 s"


def printable(text: str) -> str:
    """Return text in which whatever moves the cursor, colours or reorders is escaped.

    Names of files come from other people, and must not control the terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return several lines, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def shell_words(*words: str | Path) -> str:
    """Return words as they are typed into a shell, quoted where necessary."""
    return printable(shlex.join(str(word) for word in words))


def python_text(text: str) -> str:
    """Return printable text as a string literal of Python."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
