"""A Prefect server that cannot be used: one message that says which, why, and what to do."""

import datetime
import json
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import prefect
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prefect.context import use_profile
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    Profile,
    temporary_settings,
)

from deepcluster_core.errors import ConfigError
from flows import configured_server, loopback, serve
from flows.embedded import EmbeddedServer
from flows.prefect_database import configured_database, usable_database
from flows.prefect_settings import API_URL, origin_of
from flows.server_errors import ServerError, last_words, own_server_error
from tests.faults.programs import PROGRAM, write_recipe

REPOSITORY = Path(__file__).parents[2]
WITHIN_S = 120
NEWER = "ffffffffffff"


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect reads .env, prefect.toml and pyproject.toml of the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@contextmanager
def answering(status: int, body: bytes, certificate: Path | None = None) -> Iterator[int]:
    """Run an HTTP server that always gives this answer; yield its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def own_certificate(path: Path) -> Path:
    """Write a certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2100))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def configured_message(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the message for a configured server, before a flow."""
    monkeypatch.setenv("PREFECT_API_URL", url)
    began = False
    with pytest.raises(ServerError) as caught, temporary_settings({PREFECT_API_URL: url}):
        with EmbeddedServer().running():
            began = True
    assert not began
    text = str(caught.value)
    assert "\n  Setting: PREFECT_API_URL, an environment variable\n  Fix: " in text
    assert text.endswith("or unset PREFECT_API_URL to use a server of this command's own.")
    return text


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, "<html>Welcome</html>", "what answers there is not Prefect's API"),
        (200, "<html>Welcome</html>", "correct the URL; it ends in /api"),
        (200, "[]", "what answers there is not Prefect's API"),
        (200, '"hello"', "what answers there is not Prefect's API"),
        (404, '{"detail": "Not Found"}', "not Prefect's API (HTTP 404)"),
        (401, "{}", "refuses the credentials (HTTP 401).\n"),
        (403, "{}", "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"),
        (500, "", "answers with an error (HTTP 500)"),
        (200, '"2.20.4"', f"is Prefect 2.20.4, which Prefect {prefect.__version__} cannot use"),
        (200, '"10.0.0"', f"is Prefect 10.0.0, which Prefect {prefect.__version__} cannot use"),
    ],
)
def test_running__configured_server_gives_a_wrong_answer(
    status: int, body: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, body.encode()) as port:
        url = f"http://user:secret@127.0.0.1:{port}/api"
        text = configured_message(url, monkeypatch)

    assert f"http://127.0.0.1:{port}/api cannot be used" in text
    assert expected in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1/api", "the connection is refused: no server runs there"),
        ("http://no-such-host.invalid/api", "its host name is unknown"),
        ("127.0.0.1:4200/api", "invalid URL"),
        ("http://127.0.0.1:port/api", "invalid URL (Invalid port: 'port')"),
        ("ftp://127.0.0.1/api", "invalid URL"),
    ],
)
def test_running__configured_server_is_not_there(
    url: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert expected in configured_message(url, monkeypatch)


def test_running__configured_server_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configured_server, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        text = configured_message(url, monkeypatch)

    assert "no answer within 0.2 s" in text


def test_running__configured_server_has_an_unknown_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200, b'"3.0"', own_certificate(tmp_path / "pem")) as port:
        text = configured_message(f"https://127.0.0.1:{port}/api", monkeypatch)

    assert "its certificate is not trusted" in text
    assert "PREFECT_API_SSL_CERT_FILE" in text


def test_running__configured_server_speaks_no_https(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, b'"3.0"') as port:
        text = configured_message(f"https://127.0.0.1:{port}/api", monkeypatch)

    assert "write http:// instead of https://" in text


def test_running__remote_server_behind_a_proxy_that_is_not_supported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:1")

    text = configured_message("http://prefect.invalid/api", monkeypatch)

    assert "does not support the proxy (ALL_PROXY: Unknown scheme" in text


def test_running__remote_server_is_asked_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering(200, json.dumps(prefect.__version__).encode()) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        with temporary_settings({PREFECT_API_URL: "http://prefect.invalid/api"}):
            with EmbeddedServer().running():
                pass


def test_running__configured_server_ends_before_the_flow() -> None:
    stack = ExitStack()
    port = stack.enter_context(answering(200, json.dumps(prefect.__version__).encode()))
    url = f"http://127.0.0.1:{port}/api"

    def flow() -> None:
        stack.close()
        raise RuntimeError("the engine's error")

    with pytest.raises(ServerError) as caught, temporary_settings({PREFECT_API_URL: url}):
        with EmbeddedServer().running():
            flow()

    assert "stopped answering before the run ended" in str(caught.value)
    assert "run the same command again" in str(caught.value)


def test_running__errors_of_the_flow_are_not_blamed_on_the_server() -> None:
    with answering(200, json.dumps(prefect.__version__).encode()) as port:
        url = f"http://127.0.0.1:{port}/api"
        with pytest.raises(ZeroDivisionError), temporary_settings({PREFECT_API_URL: url}):
            with EmbeddedServer().running():
                raise ZeroDivisionError


def test_running__own_server_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_ENABLED", "false")
    with (
        pytest.raises(ServerError) as caught,
        temporary_settings({PREFECT_SERVER_EPHEMERAL_ENABLED: False}),
    ):
        with EmbeddedServer().running():
            pass

    assert "Setting: PREFECT_SERVER_EPHEMERAL_ENABLED, an environment variable" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        (".env", "prefect_api_url=http://x/api", "prefect_api_url"),
        ("prefect.toml", '[api]\nurl = "http://x/api"', "url under [api]"),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://x"', "url under [tool.prefect.api]"),
    ],
)
def test_origin_of__names_the_file(file: str, text: str, name: str) -> None:
    Path(file).write_text(text)

    origin = origin_of(API_URL)

    assert origin is not None
    assert (origin.name, origin.place) == (name, str(Path(file).absolute()))


def test_origin_of__names_the_profile(tmp_path: Path) -> None:
    path = tmp_path / "profiles.toml"
    profile = Profile(name="mine", settings={PREFECT_API_URL: "http://x/api"}, source=path)

    with use_profile(profile, include_current_context=False):
        origin = origin_of(API_URL)

    assert str(origin) == f"PREFECT_API_URL, the profile mine in {path}"


def test_run__configured_server_is_refused_before_anything_is_made(
    small_source: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path / "recipe.yaml", small_source)
    Path(".env").write_text("PREFECT_API_URL=http://127.0.0.1:1/api\n")

    ended = subprocess.run(
        [PROGRAM, "run", recipe, "--run", run],
        env=os.environ | {"PREFECT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("deepcluster: the configured Prefect server http://127.0.0.1:1")
    setting = f"PREFECT_API_URL, {Path('.env').absolute()}"
    assert f"\n  Setting: {setting}\n  Fix: start that server, or" in ended.stderr
    assert len(ended.stderr.splitlines()) == 3
    assert not run.exists()


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
    assert f"note: {file} was upgraded by another version of Prefect" in note
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


def test_last_words__are_cut_to_a_readable_length() -> None:
    assert last_words("socket.gaierror: " + "x" * 5000).endswith("x …")
    assert len(last_words("socket.gaierror: " + "x" * 5000)) < 400


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


def test_check_port__of_another_program() -> None:
    shutil.copy(REPOSITORY / "prefect.yaml", ".")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: another program listens there"):
            serve.serve(port)


def test_check_port__address_of_another_machine() -> None:
    shutil.copy(REPOSITORY / "prefect.yaml", ".")

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
