"""What `--help` and the shell show: groups, examples that work, completion."""

import shlex

import pytest
import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from flows.cli.help import JUDGE, LOOK, RUN, USE
from flows.cli.main import app


def group() -> TyperGroup:
    found = typer.main.get_command(app)
    assert isinstance(found, TyperGroup)
    return found


COMMANDS = {name: one for name, one in group().commands.items() if isinstance(one, TyperCommand)}


def examples_of(command: TyperCommand) -> list[str]:
    title, *lines = (command.epilog or "").split("\n\n")
    assert title == "Examples:"
    return lines


def test_commands__are_listed_by_group() -> None:
    names = group().list_commands(typer.Context(typer.main.get_command(app)))

    panels = [COMMANDS[name].rich_help_panel for name in names]
    assert list(dict.fromkeys(panels)) == [RUN, LOOK, JUDGE, USE]
    assert names[:2] == ["init", "run"]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples__have_arguments_that_the_command_takes(name: str) -> None:
    for example in examples_of(COMMANDS[name]):
        program, typed, *words = shlex.split(example)

        assert (program, typed) == ("deepcluster", name)
        COMMANDS[name].make_context(name, words)  # raises an error for an unknown option
