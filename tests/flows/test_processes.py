"""Runs in processes of their own: several at once, and one that is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import MANIFEST
from tests.support import counted_run
from tests.support.flow_runs import STAGES, loop
from tests.support.program import ENVIRONMENT
from tests.support.run_files import manifests
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all

SCRIPT = Path(counted_run.__file__)
BODIES = sorted(["index None", *(f"{stage} {epoch}" for stage in STAGES for epoch in range(3))])


@pytest.fixture
def environment(prefect_server: str) -> dict[str, str]:
    return ENVIRONMENT | {"PREFECT_API_URL": prefect_server}


def start(*arguments: str | Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def digests(run: Path) -> dict[str, str]:
    """Return the digests of all artifacts; metrics left out, which hold the seconds taken."""
    return {
        name: made.digest for name, made in manifests(run).items() if not name.startswith("metrics")
    }


def test_deepcluster__two_processes_share_a_run(
    recipe: Path, finished_run: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    run, notes, go = tmp_path / "run", tmp_path / "notes", tmp_path / "go"
    both = [start(recipe, run, notes, go, environment=environment) for _ in range(2)]
    for process in both:
        wait_for(lambda pid=process.pid: Path(f"{notes}.ready.{pid}").exists(), process)
    go.touch()

    for process in both:
        output, _ = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0, output
    assert sorted(notes.read_text().splitlines()) == BODIES, "each body exactly once"
    assert digests(run) == digests(finished_run)


def test_deepcluster__killed_run_goes_on_as_if_nothing_had_happened(
    recipe: Path, finished_run: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    killed = start(recipe, run, notes, environment=environment)
    wait_for(lambda: "train 1" in (notes.read_text() if notes.exists() else ""), killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=WITHIN_S)
    assert not (run / "checkpoints/epoch=0001" / MANIFEST).exists()

    states = loop(recipe, run)

    assert states["train epoch 1"] == "Completed"
    assert {states[f"{stage} epoch 0"] for stage in STAGES} == {"Cached"}
    assert digests(run) == digests(finished_run)
