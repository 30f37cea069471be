"""The console that commands print on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(*, width: int | None = None) -> "Console":
    """Return a console on standard output that prints text unchanged.

    Names of files and classes can contain brackets and colons, which rich would interpret as styles
    and emoji.
    """
    from rich.console import Console  # noqa: PLC0415  not every command needs it

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)
