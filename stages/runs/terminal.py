"""What is printed on a terminal, and what can be typed there again."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from deepcluster_core.text import printable

if TYPE_CHECKING:
    from rich.console import Console


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
