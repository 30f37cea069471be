"""Commands that only look at a run start fast: they import none of the libraries that compute."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.flow_runs import KEEP_ALL, loop
from tests.support.program import ENVIRONMENT

COMPUTING = ("torch", "torchvision", "faiss", "sympy")
"""Libraries that compute; each takes 0.2 to 1.5 s to import."""
DRAWING = ("matplotlib", "pandas", "scipy", "zarr", "apprise")
"""Libraries that draw, or read what only drawing needs, or send notifications."""
HEAVY = (*COMPUTING, *DRAWING, "prefect", "prefect.server")
READING = ("numpy", "pyarrow")
"""Libraries that read artifacts, which a command that reads none does without."""
PROGRAM = f"""
import sys
from flows.cli.start import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print("imported:", *(name for name in {(*HEAVY, *READING)} if name in sys.modules))
"""


def all_imported_by(*arguments: str) -> list[str]:
    """Return the libraries named above that a command imports."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()[-1].removeprefix("imported:").split()


def imported_by(*arguments: str) -> list[str]:
    """Return the heavy libraries that a command imports."""
    return [name for name in all_imported_by(*arguments) if name in HEAVY]


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        (["show"], set[str]()),
        # pyarrow asks for it.
        pytest.param(
            ["show", "--epoch", "1", "--cluster", "0"], {"pandas"}, marks=pytest.mark.slow
        ),
        # It compares tables, and can write one.
        pytest.param(["diff"], {"pandas", "scipy", "zarr"}, marks=pytest.mark.slow),
    ],
)
def test_main__looks_at_a_run_without_heavy_libraries(
    finished_run: Path, command: list[str], needed: set[str]
) -> None:
    name, *options = command

    assert set(imported_by(name, str(finished_run), *options)) <= needed


def test_main__writes_a_report_without_heavy_libraries(finished_run: Path, tmp_path: Path) -> None:
    found = imported_by("report", str(finished_run), "--out", str(tmp_path / "page.html"))

    assert not set(found) & {*COMPUTING, "prefect"}


def test_main__helps_without_heavy_libraries() -> None:
    assert all_imported_by("--help") == []


def test_evaluations__are_listed_without_torchvision() -> None:
    listing = "import sys, stages.runs.evaluations; print('torchvision' in sys.modules)"
    command = [sys.executable, "-c", listing]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False"]


def test_main__answers_a_finished_run_with_prefect_alone(recipe: Path, own_run: Path) -> None:
    loop(recipe, own_run, overrides=KEEP_ALL)  # draws the overview, which names the folder

    run = ("run", str(recipe), "--run", str(own_run), "--set", "keep.features=null")
    assert imported_by(*run) == ["prefect"]


@pytest.mark.slow
def test_main__run_computes_again_what_was_deleted_from_a_finished_run(
    recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = ("run", str(recipe), "--run", str(folder), "--epochs", "1")
    imported_by(*run)
    labels = folder / "labels/epoch=0000"
    before = (labels / "labels.parquet").read_bytes()
    shutil.rmtree(labels)

    assert "torch" in imported_by(*run)

    assert (labels / "labels.parquet").read_bytes() == before
