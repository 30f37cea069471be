"""The server of one command: what it records, and when it ends."""

import fcntl
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import prefect
import pytest
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    get_current_settings,
    temporary_settings,
)

from flows.prefect_.database import configured_database, lock_unless_current
from flows.prefect_.embedded import EmbeddedServer
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S

BEGINS = """
import sys, time
from flows.prefect_.embedded import EmbeddedServer
from flows.prefect_.database import configured_database, lock_unless_current
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


def servers(parent: int) -> set[int]:
    """Return the embedded servers of a process; other tests have theirs at the same time."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"flows.prefect_.embedded" in words and words[-2] == str(parent).encode():
            found.add(int(path.parent.name))
    return found


@pytest.mark.slow
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
    command = [sys.executable, "-c", BEGINS, str(after_s)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + WITHIN_S
    while servers(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_running__sends_no_heartbeats(prefect_server: str) -> None:
    # Prefect would wait for the next full second at the end of every flow.
    assert get_current_settings().flows.heartbeat_frequency is None


def test_end__leaves_no_server() -> None:
    server, before = EmbeddedServer(), servers(os.getpid())
    server.begin()

    server.end()

    assert servers(os.getpid()) <= before


def test_begin__starts_nothing_beside_a_configured_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    server, before = EmbeddedServer(), servers(os.getpid())

    server.begin()

    assert servers(os.getpid()) <= before


@pytest.mark.slow
def test_main__ends_at_once_where_a_file_configures_a_server() -> None:
    Path("prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:1/api"\n')

    ended = subprocess.run(
        [sys.executable, "-m", "flows.prefect_.embedded", "1", str(os.getpid())],
        env=ENVIRONMENT,
        timeout=WITHIN_S,
        check=False,
    )

    assert ended.returncode == 0


def start_at_once(number: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start several servers on a new database; raises if one of them does not start."""
    monkeypatch.setenv("PREFECT_HOME", str(home))
    servers = [EmbeddedServer() for _ in range(number)]
    try:
        for server in servers:
            server.begin()
        for server in servers:
            server.wait(WITHIN_S)
    finally:
        for server in servers:
            server.end(WITHIN_S)


@pytest.mark.timeout(1200)
@pytest.mark.slow
def test_wait__several_first_starts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turn in range(2):
        start_at_once(3, tmp_path / str(turn), monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_wait__several_first_starts_at_once_many_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turn in range(20):
        start_at_once(3, tmp_path / str(turn), monkeypatch)


def url_of(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


def test_lock_unless_current__of_a_new_database(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url_of(tmp_path / "new.db")}):
        lock = lock_unless_current(configured_database())

    assert lock is not None
    with (tmp_path / "new.db.lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(lock)


def test_lock_unless_current__is_not_needed_once_the_database_is_there(
    prefect_database: Path,
) -> None:
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url_of(prefect_database)}):
        assert lock_unless_current(configured_database()) is None

    with prefect_database.with_name("prefect.db.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock_unless_current__where_nothing_can_be_written(tmp_path: Path) -> None:
    place = tmp_path / "missing" / "prefect.db"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url_of(place)}):
        assert lock_unless_current(configured_database()) is None


@pytest.mark.slow
def test_run__beside_a_newer_database_and_behind_a_proxy(
    prefect_database: Path, recipe: Path, tmp_path: Path
) -> None:
    """Two things that kept the server from being reached; one start is enough to see both."""
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    own = home / f"prefect-{prefect.__version__}.db"
    for file in (home / "prefect.db", own):
        shutil.copy(prefect_database, file)
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
        database.commit()
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        url = f"127.0.0.1:{proxy.getsockname()[1]}"
        proxies = {"http_proxy": f"http://{url}", "HTTPS_PROXY": f"http://{url}"}
        socks = {"ALL_PROXY": f"socks5://{url}", "no_proxy": "localhost,[::1]"}

        ended = subprocess.run(
            [PROGRAM, "run", recipe, "--run", run, "--epochs", "1"],
            env=ENVIRONMENT | proxies | socks | {"PREFECT_HOME": str(home)},
            timeout=WITHIN_S,
            capture_output=True,
            text=True,
            check=False,
        )

        assert ended.returncode == 0, ended.stderr
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert ended.stderr.startswith(
        f"note: {home / 'prefect.db'} was upgraded by a different version"
    )
    assert len(ended.stderr.splitlines()) == 1
    with closing(sqlite3.connect(own)) as database:
        assert database.execute(RECORDED, [f"{run.name} %"]).fetchall() == [("Completed",)] * 5


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.slow
def test_run__server_is_killed_in_the_middle(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [PROGRAM, "run", recipe, "--run", run, "--epochs", "200", "--yes"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + WITHIN_S
        while not (run / "metrics/epoch=0000").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for server in servers(process.pid):
            os.kill(server, signal.SIGKILL)
        _, errors = process.communicate(timeout=WITHIN_S)

    assert process.returncode == 2
    assert errors == (
        "deepcluster: the Prefect server of this command: it ended before the run did.\n"
        "  Fix: run the same command again; what is finished is not made again.\n"
    )
