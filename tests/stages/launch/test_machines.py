"""A run on two machines: network namespaces that only a virtual cable connects."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcluster_core.errors import ConfigError
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.launch.board import Board
from stages.runs.launch.join import join
from stages.runs.launch.launcher import Launch
from tests.support import launching
from tests.support.launching import ROOT, USER_ERROR, all_end, when_ranks_run
from tests.support.namespaces import ADDRESS, FIRST, JOIN, SECOND, inside, two_machines
from tests.support.ranked_stage import ranked_job
from tests.support.timeouts import WITHIN_S


@pytest.fixture(scope="module")
def machines() -> Iterator[None]:
    with two_machines():
        yield


def start(namespace: str, *command: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*inside(namespace), sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def start_run(out: Path, act: str) -> "subprocess.Popen[str]":
    settings = {"device": "cpu", "ranks": 2, "nodes": 2, "address": ADDRESS, "timeout_s": 60}
    return start(FIRST, launching.__file__, json.dumps(settings), out, act)


def start_join(out: Path) -> "subprocess.Popen[str]":
    return start(SECOND, "-c", JOIN, out.with_name("run"))


@pytest.mark.slow  # five processes that import torch
@pytest.mark.usefixtures("machines")
def test_join__both_machines_make_an_artifact(tmp_path: Path) -> None:
    out = tmp_path / "out"
    joined, run = start_join(out), start_run(out, "sum")

    output, _ = run.communicate(timeout=WITHIN_S)
    told, _ = joined.communicate(timeout=WITHIN_S)

    assert (run.returncode, joined.returncode) == (0, 0), output + told
    assert (out / "sum").read_text() == "3 of 2"
    assert told.splitlines()[-1] == "the run has ended"


@pytest.mark.slow  # five processes that import torch
@pytest.mark.usefixtures("machines")
def test_join__an_end_on_one_machine_is_an_end_on_both(tmp_path: Path) -> None:
    out = tmp_path / "out"
    joined, run = start_join(out), start_run(out, "wait")
    processes = when_ranks_run(run, out)

    os.kill(processes[1], 9)  # the rank of the second machine
    output, _ = run.communicate(timeout=WITHIN_S)
    told, _ = joined.communicate(timeout=WITHIN_S)

    assert run.returncode == USER_ERROR, output
    assert joined.returncode == 0, told
    all_end(processes, within_s=0)
    assert not ranked_job(out, "wait").is_done()


def test_join__a_machine_that_the_run_does_not_have(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.messages.mkdir(parents=True)
    board = Board(folder.messages)
    compute = ComputeConfig(ranks=2, nodes=2, address=ADDRESS)
    launch = folder.messages / "train-0"

    def announce(_: str) -> None:  # the board changes after `join` has looked at it
        board.announce(Launch(compute, 2, launch, tmp_path, launch / "JOB.json"))

    with pytest.raises(ConfigError, match=r"--node 2: the run has machines 0 to 1"):
        join(folder, 2, announce)
    board.end()
