"""Notifications to a real web server on this machine, from flows and from the command."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from deepcluster_core.errors import ConfigError
from deepcluster_core.notification import check_url
from flows.engine.notifications import NOTIFY, RunNotices
from stages.runs.folder import RunFolder
from tests.support.flow_runs import loop, swept
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S

PASSWORD = "hush-hush"  # noqa: S105  of a server in this test


class Server:
    """A web server that keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.logins: set[str | None] = set()
        received = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                received.messages.append(json.loads(self.rfile.read(length)))
                received.logins.add(self.headers["Authorization"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"json://me:{PASSWORD}@127.0.0.1:{self.http.server_port}/hook"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever)
    thread.start()
    yield found
    found.http.shutdown()
    found.http.server_close()
    thread.join()


def test_flow__notifies_when_it_is_finished(
    prefect_server: str,
    recipe: Path,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NOTIFY, server.url)

    loop(recipe, tmp_path / "mine", epochs=2)

    assert server.titles[-1] == "DeepCluster mine: finished"
    assert server.messages[-1]["type"] == "success"
    assert "2 epochs" in server.messages[-1]["message"]
    assert f"{tmp_path}/mine/report.html" in server.messages[-1]["message"]
    assert ", NMI with the labels 0." in server.messages[-1]["message"]
    warnings = {title for title in server.titles[:-1]}
    assert warnings <= {"DeepCluster mine: warning"}


@pytest.mark.slow
def test_flow__notifies_of_what_is_known(
    prefect_server: str,
    recipe: Path,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NOTIFY, server.url)

    loop(recipe, tmp_path / "mine", epochs=1, overrides={"dataset": {"labels": "none"}})

    assert "NMI" not in server.messages[-1]["message"]


def test_flow__notifies_when_it_fails(
    prefect_server: str,
    recipe: Path,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NOTIFY, server.url)

    with pytest.raises(ConfigError):
        loop(recipe, tmp_path / "mine", overrides={"network": {"name": "alexnett"}})

    (message,) = server.messages
    assert message["title"].endswith("failed")
    assert message["type"] == "failure"
    assert "alexnett" in message["message"]


def test_sweep__notifies_once_when_what_its_runs_share_cannot_be_made(
    prefect_server: str,
    recipe: Path,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NOTIFY, server.url)

    with pytest.raises(ConfigError):
        swept(recipe, tmp_path / "mine", 8, 100_000)

    (message,) = server.messages
    assert message["title"] == "DeepCluster mine: failed"
    assert "--k 100000" in message["message"]


def test_warned__sends_a_warning_once_whatever_its_numbers(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NOTIFY, server.url)
    notices = RunNotices(RunFolder(tmp_path / "mine"), warn=pytest.fail)

    for text in ("epoch 1: 3.5 of 4 are dead", "epoch 12: 4 of 4 are dead", "epoch 1: flat"):
        notices.warned(text)

    texts = [message["message"] for message in server.messages]
    assert texts == ["epoch 1: 3.5 of 4 are dead", "epoch 1: flat"]
    assert server.logins == {f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"}


def test_warned__warns_once_if_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NOTIFY, f"json://me:{PASSWORD}@127.0.0.1:9")  # nothing listens there
    warnings: list[str] = []
    notices = RunNotices(RunFolder(tmp_path), warn=warnings.append)

    notices.warned("one")
    notices.warned("another")

    assert warnings == ["a notification could not be sent; the run goes on without"]


@pytest.mark.parametrize("url", ["nonsense", "nobody://me:hush-hush@host", "json://"])
def test_check_url__does_not_show_what_it_refuses(url: str) -> None:
    with pytest.raises(ConfigError, match="Fix: see ") as raised:
        check_url(url)

    assert PASSWORD not in str(raised.value)


@pytest.mark.slow
def test_command__keeps_the_password_to_itself(
    recipe: Path, tmp_path: Path, server: Server
) -> None:
    home = tmp_path / "prefect"
    run = tmp_path / "run"
    command = [PROGRAM, "run", recipe, "--run", run, "--epochs", "1", "--notify", server.url]

    ended = subprocess.run(
        command,
        env=ENVIRONMENT | {"PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "DEBUG"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )

    assert server.titles[-1] == "DeepCluster run: finished"
    assert PASSWORD not in ended.stdout + ended.stderr
    written = [path for folder in (run, home) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in written)
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []


def test_prefect__stores_no_url(
    prefect_server: str,
    recipe: Path,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NOTIFY, server.url)
    loop(recipe, tmp_path / "mine", epochs=1)

    with get_client(sync_client=True) as client:
        stored = [run.model_dump_json() for run in client.read_flow_runs()]

    assert len(stored) > 0
    assert not any(PASSWORD in text for text in stored)
