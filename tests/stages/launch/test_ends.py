"""Ranks end with their run, in whatever way it ends, and a run notices the end of its ranks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.runs.launch.messages import CONTROL
from tests.support.launching import (
    LOOPBACK,
    USER_ERROR,
    all_end,
    listening,
    messages_of,
    start,
    wait_for,
    when_ranks_run,
)
from tests.support.ranked_stage import ranked_job
from tests.support.timeouts import WITHIN_S

pytestmark = [
    pytest.mark.slow,  # each test starts four processes that import torch
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def end_of(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=WITHIN_S)[0]


def test_launch__listens_on_loopback_only(out: Path) -> None:
    run = start(out, "wait")
    processes = when_ranks_run(run, out)

    addresses = listening([*processes, run.pid])

    out.with_name("go").touch()
    assert end_of(run) == ""
    assert addresses, "gloo listens"
    assert set(addresses) == {LOOPBACK}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_launch__a_signal_lets_the_ranks_save(out: Path, number: signal.Signals) -> None:
    run = start(out, "save")
    processes = when_ranks_run(run, out)

    run.send_signal(number)
    end_of(run)

    assert run.returncode == -number
    assert out.with_name("saved").exists()
    all_end(processes, within_s=0)


def test_launch__a_signal_ends_ranks_that_save_nothing(out: Path) -> None:
    run = start(out, "wait")
    processes = when_ranks_run(run, out)

    run.terminate()
    end_of(run)

    assert run.returncode == -signal.SIGTERM
    all_end(processes, within_s=0)


def test_launch__a_second_signal_ends_all_at_once(out: Path) -> None:
    run = start(out, "save")
    processes = when_ranks_run(run, out)
    os.kill(processes[0], signal.SIGSTOP)  # it will never save

    control = messages_of(processes[1]) / CONTROL

    run.terminate()
    wait_for(lambda: control.read_text().startswith("stop"))
    run.terminate()
    end_of(run)

    assert run.returncode == -signal.SIGTERM
    all_end(processes)  # the signal has ended the run itself at once, and the kernel the others


def test_launch__kill_9_of_the_run_ends_all(out: Path) -> None:
    run = start(out, "wait")
    processes = when_ranks_run(run, out)

    run.kill()
    run.wait(WITHIN_S)  # not for its output: processes that live hold it open

    all_end(processes)
    end_of(run)


def test_launch__kill_9_of_the_agent_ends_all(out: Path) -> None:
    run = start(out, "wait")
    *ranks, agent = when_ranks_run(run, out)

    os.kill(agent, signal.SIGKILL)
    output = end_of(run)

    assert run.returncode == USER_ERROR, output
    assert "ended without reporting an error" in output
    all_end(ranks, within_s=0)


def test_launch__kill_9_of_a_rank_ends_all(out: Path) -> None:
    run = start(out, "wait")
    processes = when_ranks_run(run, out)

    os.kill(processes[1], signal.SIGKILL)
    output = end_of(run)

    assert run.returncode == USER_ERROR, output
    assert "rank 1 of 2" in output
    assert "was ended by SIGKILL" in output
    all_end(processes, within_s=0)
    assert not ranked_job(out, "wait").is_done()
