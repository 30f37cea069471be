"""The server of a command, or of `serve`, that does not start: its database, its port."""

import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import prefect
import pytest
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_HOME,
    temporary_settings,
)

from deepcluster_core.errors import ConfigError
from flows.prefect_ import loopback, serve
from flows.prefect_.database import configured_database, usable_database
from flows.prefect_.embedded import EmbeddedServer
from flows.prefect_.server_errors import ServerError, error_line, own_server_error
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all

NEWER = "ffffffffffff"


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect reads .env, prefect.toml and pyproject.toml of the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def database_at(path: Path, revision: str) -> Path:
    """Write a database that says it has had this migration last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values (?)", [revision])
        database.commit()
    return path


def test_usable_database__beside_one_of_another_version(tmp_path: Path) -> None:
    file = database_at(tmp_path / "prefect.db", NEWER)

    with temporary_settings(
        {PREFECT_HOME: tmp_path, PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{file}"}
    ):
        database, note = usable_database()

    own = tmp_path / f"prefect-{prefect.__version__}.db"
    assert database.file == own
    assert f"note: {file} was upgraded by a different version of Prefect" in note
    assert str(own) in note


def test_usable_database__never_instead_of_one_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = database_at(tmp_path / "mine.db", NEWER)
    url = f"sqlite+aiosqlite:///{file}"
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", url)

    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}):
        database, note = usable_database()
        text = str(own_server_error("it ended", "x.CommandError: Can't locate revision", database))

    assert (database.file, note) == (file, "")
    assert f"its database {file} was upgraded by another version of Prefect" in text
    assert "Setting: PREFECT_API_DATABASE_CONNECTION_URL, an environment variable" in text
    assert text.endswith("or unset PREFECT_API_DATABASE_CONNECTION_URL.")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("(sqlite3.OperationalError) database is locked", "is locked by another program"),
        ("(sqlite3.DatabaseError) file is not a database", "is damaged or not a database"),
        ("(sqlite3.DatabaseError) database disk image is malformed", "is damaged"),
        ("(sqlite3.OperationalError) database or disk is full", "its disk is full"),
        ("(sqlite3.OperationalError) disk I/O error", "cannot be written"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "cannot be written"),
        ("(sqlite3.OperationalError) unable to open database file", "cannot be written"),
        ("[Errno 111] Connect call failed ('127.0.0.1', 5432)", "cannot be reached"),
        ('password authentication failed for user "x"', "does not accept this user"),
        ("Could not parse SQLAlchemy URL from given URL string", "is not one that Prefect can use"),
        ("(sqlite3.OperationalError) table flow already exists", "is another program's"),
    ],
)
def test_own_server_error__says_what_is_wrong_with_the_database(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = f"Traceback\n  File x\nlib.exc.Error: {words}\n(Background: x)\n\nERROR:    Exiting.\n"

    text = str(own_server_error("it ended", said, configured_database()))

    assert expected in text
    assert capsys.readouterr().err == f"Prefect server: lib.exc.Error: {words}\n", "above it"
    assert "above" not in text


@pytest.mark.parametrize(("said", "above"), [("", False), ("something odd\n", True)])
def test_own_server_error__speaks_of_words_above_only_where_some_are(
    said: str, above: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    text = str(own_server_error("it ended", said, configured_database()))

    assert ("above" in text) == above
    assert bool(capsys.readouterr().err) == above


def test_error_line__is_cut_to_a_readable_length() -> None:
    assert error_line("socket.gaierror: " + "x" * 5000).endswith("x …")
    assert len(error_line("socket.gaierror: " + "x" * 5000)) < 400


def test_wait__damaged_database_is_reported_with_the_servers_words_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prefect.db").write_bytes(b"no database" * 1000)
    url = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", url)
    server = EmbeddedServer()
    server.begin()

    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}):
        with pytest.raises(ServerError) as caught:
            server.wait(WITHIN_S)
    server.end(WITHIN_S)

    assert f"its database {tmp_path / 'prefect.db'} is damaged" in str(caught.value)
    assert "file is not a database" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flows", "stages"])
def test_serve__refuses_a_folder_with_other_packages_of_our_names(name: str) -> None:
    Path(name).mkdir()
    Path(name, "__init__.py").touch()

    with pytest.raises(ConfigError, match=rf"^{name}/: Prefect would import .*\n  Fix: "):
        serve.serve(4200)


def test_check_port__of_another_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: another program listens there"):
            serve.serve(port)


def test_check_port__address_of_another_machine() -> None:
    with pytest.raises(ConfigError, match=r"--host 192\.0\.2\.1 --port 4200: cannot be listened"):
        serve.serve(4200, "192.0.2.1")


def test_forget_dead_server__was_killed_while_it_wrote() -> None:
    serve.SETTINGS.write_text(f"{serve.MARK}[api]\nur")

    serve.forget_dead_server()

    assert not serve.SETTINGS.exists()


def test_forget_dead_server__a_busy_server_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "HEALTH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        url = f"http://127.0.0.1:{busy.getsockname()[1]}/api"
        serve.SETTINGS.write_text(f'{serve.MARK}[api]\nurl = "{url}"\n')

        serve.forget_dead_server()

    assert serve.SETTINGS.exists()


def test_wait_until_up__says_that_the_process_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as ended:
        with pytest.raises(serve.WaitError, match="its process ended with exit code 3"):
            serve.wait_until_up("http://127.0.0.1:1/api", ended)
