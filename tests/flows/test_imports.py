"""Commands that only look at a run start fast: they import none of the libraries that compute."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.program import ENVIRONMENT

HEAVY = ("torch", "torchvision", "faiss", "prefect")
PROGRAM = f"""
import sys
from flows.cli.start import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print("imported:", *(name for name in {HEAVY} if name in sys.modules))
"""


def imported_by(*arguments: str) -> list[str]:
    """Return the heavy libraries that a command imports."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()[-1].removeprefix("imported:").split()


@pytest.mark.parametrize(
    "command", [["show"], ["show", "--epoch", "1", "--cluster", "0"], ["diff"]]
)
def test_main__looks_at_a_run_without_heavy_libraries(
    finished_run: Path, command: list[str]
) -> None:
    name, *options = command

    assert imported_by(name, str(finished_run), *options) == []


def test_main__writes_a_report_without_heavy_libraries(finished_run: Path, tmp_path: Path) -> None:
    assert imported_by("report", str(finished_run), "--out", str(tmp_path / "page.html")) == []


def test_main__helps_without_heavy_libraries() -> None:
    assert imported_by("--help") == []
