"""Completion by the shell, without the shells: what the program answers to bash, zsh and fish."""

import subprocess
from pathlib import Path

import pytest

from flows.cli.completion import complete_recipe, complete_run
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S

SHELLS = ("bash", "zsh", "fish")


def answer(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Return what the program does with these arguments and variables of the environment."""
    return subprocess.run(
        [PROGRAM, *words],
        env=ENVIRONMENT | variables,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def completed(shell: str, typed: str) -> str:
    """Return the answer when TAB is pressed after some text."""
    words = typed.split(" ")
    asked = {
        "bash": {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": typed},
        "fish": {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    ended = answer(_DEEPCLUSTER_COMPLETE=f"complete_{shell}", **asked[shell])
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout.strip()


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("deepcluster trac", "track"),
        ("deepcluster evaluate kn", "knn"),
        ("deepcluster run imagenet-al", "imagenet-alexnet"),
        ("deepcluster track mine --to ml", "mlflow"),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_shell__completes_names(shell: str, typed: str, name: str) -> None:
    found = completed(shell, typed)

    if shell == "zsh":  # code for zsh, which shows a description after the name
        assert found.startswith(f'_arguments \'*: :(("{name}"')
        assert found.count('"') in (2, 4), "one name"
    else:  # fish shows a description after a tab
        assert found.partition("\t")[0] == name


@pytest.mark.parametrize("shell", SHELLS)
def test_shell__completes_files_where_the_program_knows_no_name(shell: str) -> None:
    typed = "deepcluster assign mine no-such-name"
    found = completed(shell, typed)

    assert found == ("_files" if shell == "zsh" else "")
    if shell == "fish":  # completes files itself, unless the program has names
        variables = {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "is-args"}
        assert answer(_DEEPCLUSTER_COMPLETE="complete_fish", **variables).returncode != 0


@pytest.mark.parametrize("shell", SHELLS)
def test_show_completion__prints_the_script_of_the_shell(shell: str) -> None:
    ended = answer("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")

    assert f"_DEEPCLUSTER_COMPLETE=complete_{shell}" in ended.stdout
    if shell == "zsh":  # loads the file at the first TAB, and it has to complete then
        first_tab = ended.stdout.partition("== loadautofunc ]]; then")[2]
        assert first_tab.split("\n")[1].strip() == '_deepcluster_completion "$@"'


def test_complete_recipe__names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demonstration.yaml").touch()

    assert complete_recipe("demo") == ["demo", "demonstration.yaml"]


def test_complete_run__names_or_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("alpha", "beta"):
        (tmp_path / "runs" / name).mkdir(parents=True)

    assert complete_run("") == ["alpha", "beta"]
    assert complete_run("al") == ["alpha"]
    assert complete_run("runs/b") == ["runs/beta"]
