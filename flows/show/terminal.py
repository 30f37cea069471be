"""The terminal: its width, tables of numbers, and paths and commands as people type them."""

import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deepcluster_core.text import printable, shell_words
from stages.runs.folder import RunFolder
from stages.runs.terminal import from_here, plain_console, typed


def console_for_tables() -> Console:
    """Return a console with the width of the terminal; for a pipe or a file, wide enough."""
    return plain_console(width=None if sys.stdout.isatty() else 160)


def table_of_numbers(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Return a table of numbers, aligned to the right."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def short(path: Path) -> str:
    """Return a path as people would type it in the working folder, or its URL, for display."""
    return printable(typed(path))


def shell_path(path: Path) -> str:
    """Return a path as people would type it into a shell in the working folder, with quotes.

    For a run on an object store, it is the URL.
    """
    words = typed(path)
    if words.startswith("-"):  # a command would take it for an option
        words = f"./{words}"
    return shell_words(words)


def go_on(folder: RunFolder) -> str:
    """Return the command that continues a run."""
    run = shell_path(folder.root)
    # The file itself, because a recipe has no URL.
    return f"deepcluster run {shell_words(from_here(folder.config))} --run {run}"


def program_name() -> str:
    """Return how to call this command: by its name, or by its path if a shell cannot find it."""
    if shutil.which("deepcluster"):
        return "deepcluster"
    return shell_path(Path(sys.argv[0]))


def count_of_epochs(number: int) -> str:
    """Return a number of epochs as text."""
    return f"{number} epoch" if number == 1 else f"{number} epochs"
