"""What `--help` and the shell show: groups, examples that work, completion."""

import shlex
import subprocess

import pytest
import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from flows.cli.help import JUDGE, LOOK, RUN, USE, complete_recipe
from flows.cli.main import app
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S


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


def test_complete_recipe__names_and_files(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("recipes")
    monkeypatch.chdir(folder)
    (folder / "demonstration.yaml").touch()

    assert complete_recipe("demo") == ["demo", "demonstration.yaml"]


def test_shell__completes_commands_and_evaluations() -> None:
    def completed(*words: str) -> list[str]:
        typed = {
            "_DEEPCLUSTER_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        ended = subprocess.run(
            [PROGRAM],
            env=ENVIRONMENT | typed,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=True,
        )
        return ended.stdout.split()

    assert completed("deepcluster", "trac") == ["track"]
    assert completed("deepcluster", "evaluate", "kn") == ["knn"]
