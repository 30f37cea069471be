"""The server of one command: what it records, and when it ends."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from flows.embedded import EmbeddedServer
from tests.flows.conftest import ENVIRONMENT, PROGRAM
from tests.patience import WITHIN_S

BEGINS = """
import sys, time
from flows.embedded import EmbeddedServer
server = EmbeddedServer()
server.begin()
time.sleep(float(sys.argv[1]))
print("begun", flush=True)
time.sleep(600)
"""
RECORDED = """
select task_run.state_name from task_run join flow_run on task_run.flow_run_id = flow_run.id
where flow_run.name like ?
"""


def servers() -> set[int]:
    """Return the processes that are embedded servers."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"flows.embedded" in words:
            found.add(int(path.parent.name))
    return found


def test_running__every_task_is_recorded_when_the_command_has_ended(
    recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "recorded"

    made = subprocess.run(
        [PROGRAM, "run", recipe, "--run", run, "--epochs", "2"],
        env=ENVIRONMENT,
        timeout=WITHIN_S,
        capture_output=True,
        check=True,
    )

    assert made.stderr == b""
    with closing(sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db")) as database:
        states = database.execute(RECORDED, [f"{run.name} %"]).fetchall()
    assert states == [("Completed",)] * 9


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it stays behind")
@pytest.mark.parametrize("after_s", [0, 3])
def test_begin__killed_command_leaves_no_server(after_s: int) -> None:
    before = servers()
    command = [sys.executable, "-c", BEGINS, str(after_s)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + WITHIN_S
    while servers() - before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_end__leaves_no_server() -> None:
    server, before = EmbeddedServer(), servers()
    server.begin()

    server.end()

    assert servers() <= before


def test_begin__starts_nothing_beside_a_configured_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    server, before = EmbeddedServer(), servers()

    server.begin()

    assert servers() <= before


def test_main__ends_at_once_where_a_file_configures_a_server() -> None:
    Path("prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:1/api"\n')

    ended = subprocess.run(
        [sys.executable, "-m", "flows.embedded", "1", str(os.getpid())],
        env=ENVIRONMENT,
        timeout=WITHIN_S,
        check=False,
    )

    assert ended.returncode == 0
