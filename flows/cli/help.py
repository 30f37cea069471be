"""What `--help` shows besides the options: groups of commands, examples, and completed names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from deepcluster_core.config_files import recipe_names
from stages.evaluations.shared.protocol import protocol_names

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


def complete_recipe(incomplete: str) -> list[str]:
    """Return the recipes, and the files here, that begin as what was typed."""
    return [*_beginning(recipe_names(), incomplete), *_beginning(_files("*.yaml"), incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Return the runs in `runs/` that begin as what was typed, by their paths."""
    return _beginning(_files("runs/*/"), incomplete)


def complete_evaluation(incomplete: str) -> list[str]:
    """Return the evaluations that begin as what was typed."""
    return _beginning(protocol_names(), incomplete)


def _files(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path().glob(pattern))


def _beginning(names: Sequence[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
