"""A configured Prefect server that cannot be used: the message says which, why, what to do."""

import datetime
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    Profile,
    temporary_settings,
)

from flows.prefect_.embedded import EmbeddedServer
from flows.prefect_.server_errors import ServerError
from flows.prefect_.settings import API_URL, origin_of
from tests.support.program import PROGRAM
from tests.support.recipes import write_recipe
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all


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
    short = temporary_settings({PREFECT_API_REQUEST_TIMEOUT: 0.2})
    with short, socket.create_server(("127.0.0.1", 0)) as silent:
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
        temporary_settings(
            {PREFECT_SERVER_EPHEMERAL_ENABLED: False}, restore_defaults={PREFECT_API_URL}
        ),
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
