"""Text for people: safe to show on a terminal, since names of files are other people's; sizes."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def printable(text: str) -> str:
    """Return text without what moves the cursor, colours or reorders: that is written as escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return several lines, each printable."""
    return "\n".join(map(printable, text.split("\n")))


def readable_size(num_bytes: float) -> str:
    """Return a number of bytes with three digits: 4.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


def shell_words(*words: str | Path) -> str:
    """Return words as they are typed into a shell, quoted where they hold blanks or brackets."""
    return printable(shlex.join(str(word) for word in words))


def python_text(text: str) -> str:
    """Return text, which is printable, as it is typed into Python."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def plain_console(*, width: int | None = None) -> "Console":
    """Return standard output as a console that prints text as it is.

    Names of files and classes may hold brackets and colons, which rich takes for styles and emoji.
    """
    from rich.console import Console  # noqa: PLC0415  not every command needs it

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)
