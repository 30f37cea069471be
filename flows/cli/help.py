"""What `--help` shows besides the options: groups of commands, and examples."""

from typing import Any

from typer.core import TyperGroup

RUN, LOOK, JUDGE, USE = "Run", "Look", "Judge", "Use"
"""The groups of commands, in the order in which people need them."""


class Grouped(TyperGroup):
    """The commands, group by group. A command without a group comes last."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  typer's own Context
        """Return the names of the commands in the order of the help."""
        groups = [RUN, LOOK, JUDGE, USE]

        def place(name: str) -> int:
            group = getattr(self.commands[name], "rich_help_panel", None)
            return groups.index(group) if group in groups else len(groups)

        return sorted(super().list_commands(ctx), key=place)


def examples(*commands: str) -> str:
    """Return the text below a command's help, with a line for each example."""
    # Typer joins lines, unless an empty one is between them.
    return "\n\n".join(["Examples:", *commands])
