"""Invalid input for the command, in this process, and the messages that the command prints."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from deepcluster_core.context import Context
from deepcluster_core.stage import StageFunction
from flows.cli import main as cli
from flows.engine.open_run import open_run
from stages.score import score

LONGEST_MESSAGE = 4000
"""Characters of the longest message: long lists, of skipped images or of keys, are cut."""

Refused = Callable[..., str]


def make(recipe: Path, run: Path, last: StageFunction[...] = score) -> None:
    """Make the artifacts of the first epoch, up to those of a stage, as a run does.

    Prefect is left out: errors do not depend on it, and it would take ten times as long.
    """
    with disable_run_logger():
        opened = open_run(str(recipe), str(run), None, None)

    for job in opened.plan_until(1):
        if not job.is_done():
            job.run(Context(seed=opened.recipe.seed, epoch=job.epoch))
        if job.stage is last:
            return


def refusal(
    body: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run the body as a command; return the message with which it exits with code 2."""
    monkeypatch.setattr(cli, "app", body)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    captured = capsys.readouterr()
    assert (caught.value.code, captured.out) == (2, "")
    check_message(captured.err)
    return captured.err


def check_message(text: str) -> None:
    """Check that the text is one message with a fix and without a traceback."""
    first, *others = text.removesuffix("\n").split("\n")
    assert first.startswith("deepcluster: ")
    assert all(line.startswith("  ") for line in others), text
    assert "Fix:" in text
    assert "Traceback" not in text
    assert len(text) < LONGEST_MESSAGE


def typed(*arguments: str | Path) -> None:
    """Run the command with these arguments, in this process."""
    before, sys.argv = sys.argv, ["deepcluster", *map(str, arguments)]
    try:
        TYPER()
    finally:
        sys.argv = before


TYPER = cli.app


def put(folder: Path, name: str | bytes, data: bytes) -> Path:
    """Write a file whose name may consist of any bytes."""
    path = folder / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
