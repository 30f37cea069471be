"""The command as a person types it. What Prefect need not start for is called in this process."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import read_manifest
from flows.cli.main import app, main
from stages.runs.report import HEADER
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.run_files import manifests
from tests.support.timeouts import WITHIN_S
from tests.support.voc_tree import write_voc

HERE = {"COLUMNS": "200"}  # a table is as wide as the terminal


def typed(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PROGRAM, *arguments],
        env=ENVIRONMENT | HERE | environment,
        text=True,
        capture_output=True,
        timeout=WITHIN_S,
        check=False,
    )


def of_epochs(lines: list[str]) -> list[list[str]]:
    """Return the words of the lines of epochs; between them there are warnings."""
    return [line.split() for line in lines[lines.index(HEADER) :] if re.match(r" +\d ", line)]


def epoch_numbers(lines: list[str]) -> list[str]:
    return [words[0] for words in of_epochs(lines)]


@pytest.mark.slow
def test_run__tells_a_line_an_epoch_and_what_to_type_next(recipe: Path) -> None:
    first = typed("run", recipe)  # with the server that Prefect starts on its own

    assert (first.returncode, first.stderr) == (0, "")
    lines = first.stdout.splitlines()
    assert lines[0].startswith("needs about ")
    assert lines[1].startswith("index: 240 images, 0 skipped, ")
    assert epoch_numbers(lines) == ["0", "1", "2"]
    assert "Cached" not in str(of_epochs(lines))
    assert any(line.startswith("warning: epoch 2: the loss is ") for line in lines)
    assert "13 stages, 0 of them Cached" in lines
    assert f"{PROGRAM} show runs/tiny" in first.stdout.split("Next:")[1]
    assert len(manifests(Path("runs/tiny"))) == 13


def test_run__goes_on_and_shows_what_was_there_as_cached(
    recipe: Path, own_run: Path, prefect_server: str
) -> None:
    keep = ("--set", "keep.features=null")

    again = typed("run", recipe, "--run", own_run, *keep, PREFECT_API_URL=prefect_server)

    assert (again.returncode, again.stderr) == (0, "")
    lines = again.stdout.splitlines()
    assert epoch_numbers(lines) == ["0", "1", "2"]
    for words in of_epochs(lines):
        assert words[-4:] == ["Cached"] * 4
    assert "every stage Cached (13 of 13)" in lines


@pytest.mark.slow
def test_stage__writes_another_clustering_elsewhere(own_run: Path, prefect_server: str) -> None:
    made = typed(
        *("stage", "cluster", "--run", own_run, "--epoch", "1"),
        *("--set", "cluster.k=5", "--out", "k5"),
        PREFECT_API_URL=prefect_server,
    )

    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("cluster epoch 1: ")
    assert set(manifests(Path("k5"))) == {"."}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run the command in this process; return its message once it has exited with 2."""
    before, sys.argv = sys.argv, [str(PROGRAM), *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert not list(Path().iterdir()), "nothing is created"
    return captured.err


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ("epoch: 3", "epoch: unknown key; known here: seed, epochs"),
        ("seed: x", "seed: Input should be a valid integer (got 'x')"),
        ("compute: {workers: 0}", "compute.workers: Input should be greater than 0 (got 0)"),
        ("extract: {resize: 8}", "extract.resize: 8 is smaller than network.image_size = 16"),
        ("keep: [", "cannot be read as YAML"),
    ],
)
def test_run__refuses_a_wrong_recipe(
    changed: str, problem: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = recipe.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{changed.partition(':')[0]}:")]
    (tmp_path / "wrong.yaml").write_text("\n".join([*kept, changed]))

    told = refusal(capsys, "run", tmp_path / "wrong.yaml")

    assert told.startswith(f"deepcluster: {tmp_path / 'wrong.yaml'}: ")
    assert problem in told


def test_run__refuses_a_probe_of_a_run_that_would_begin(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "run", recipe, "--run", tmp_path / "run", "--probe")

    assert "add --dry-run" in told
    assert not (tmp_path / "run").exists()


def test_run__names_all_problems_at_once(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(capsys, "run", recipe, "--set", "cluster.k=1", "--set", "train.bach_size=4")

    assert "2 problems" in told
    wanted = "greater than or equal to 2, or 'auto' or 'fine', or a list"
    assert f"cluster.k: Input should be {wanted} (got 1)" in told
    assert "train.bach_size: unknown key" in told


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("cluster.k", "must be key=value"),
        ("cluster=[", "--set cluster=[: "),
        ("cluster.k=many", "cluster.k: "),
    ],
)
def test_run__refuses_a_wrong_set(
    assignment: str, problem: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problem in refusal(capsys, "run", recipe, "--set", assignment)


def test_run__lists_the_recipes_there_are(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "run", "absent.yaml")

    assert told.startswith("deepcluster: absent.yaml: this recipe does not exist.\n  Fix: ")
    assert "one of these names: deepcluster-v2-imagenet, demo, " in told


def test_run__refuses_a_file_as_its_folder(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert "is a file, but a run is a folder" in refusal(
        capsys, "run", recipe, "--run", tmp_path / "file"
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("cluster", "--epoch", "1", "--set", "cluster.k=1"), "cluster.k: "),
        (("cluster", "--epoch", "1", "--set", "k"), "must be key=value"),
    ],
)
def test_stage__refuses_wrong_settings(
    arguments: tuple[str, ...],
    problem: str,
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert problem in refusal(capsys, "stage", *arguments, "--run", finished_run)


@pytest.mark.parametrize("command", [("show",), ("stage", "score", "--epoch", "0", "--run")])
def test_commands__refuse_a_folder_that_is_no_run(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, *command, tmp_path)

    assert told.startswith(
        f"deepcluster: {tmp_path}: is not a run: it has no config.yaml.\n  Fix: "
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("dataset.source=nowhere", "nowhere: does not exist.\n  Fix: "),
        ("cluster.k=241", "cluster.k: 241 needs at least 241 images, but there are 240."),
    ],
)
@pytest.mark.slow
def test_run__refuses_what_it_sees_only_in_the_source(
    change: str, problem: str, recipe: Path, prefect_server: str
) -> None:
    refused = typed("run", recipe, "--set", change, PREFECT_API_URL=prefect_server)

    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("deepcluster: ")
    assert problem in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(Path().iterdir()), "nothing is created"


@pytest.mark.slow
def test_evaluate__select_leaves_the_pictures_of_the_report_alone(
    own_run: Path, tmp_path: Path, prefect_server: str
) -> None:
    write_voc(tmp_path / "voc", sizes={"train": 8, "val": 8})  # and none to test
    brief = ("--set", "iterations=2", "--set", "crops=1")

    asked = ("evaluate", "voc-classification", own_run, "--data", tmp_path / "voc", "--select")
    ended = typed(*asked, *brief, PREFECT_API_URL=prefect_server)

    assert (ended.returncode, ended.stderr) == (0, "")
    facts = read_manifest(own_run / "evaluations/voc-classification/epoch=0002").facts
    assert (facts["trained_on"], facts["judged_on"]) == ("train", "val")


def test_version__is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"deepcluster {version('deepcluster-pipeline')}\n"


def test_init__says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["init", "mine", "--like", "own-images-v2"])

    assert "projection" in Path("mine.yaml").read_text()
    assert capsys.readouterr().out.endswith("deepcluster run mine.yaml\n")
    assert {path.name for path in Path().iterdir()} == {"mine.yaml", "mine.schema.json"}
