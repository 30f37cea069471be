"""The console that commands print on, and paths as people type them."""

from pathlib import Path
from typing import TYPE_CHECKING

from deepcluster_core.artifacts.mirrored import address_of, mirror_of

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(*, width: int | None = None) -> "Console":
    """Return a console on standard output that prints text unchanged.

    Names of files and classes can contain brackets and colons, which rich would interpret as styles
    and emoji.
    """
    from rich.console import Console  # noqa: PLC0415  not every command needs it

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def typed(path: Path) -> str:
    """Return a path as people would type it in the working folder, or its URL."""
    return address_of(path) if mirror_of(path) else str(from_here(path))


def from_here(path: Path) -> Path:
    """Return a path relative to the working folder if it lies in it; else the absolute path."""
    here = Path.cwd()
    full = path.absolute()
    if full.is_relative_to(here):
        return full.relative_to(here)
    return full
