"""Proxies of the environment: this machine is reached without them, other machines with them."""

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from flows.prefect_.loopback import (
    LOOPBACK,
    drop_unusable_proxies,
    is_gone,
    is_loopback,
    is_up,
    reach_loopback_directly,
)
from tests.support.timeouts import WITHIN_S

REPOSITORY = Path(__file__).parents[2]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
ASKS = """
import sys, os
from flows.engine.environment import prepare
prepare()
from flows.prefect_.loopback import drop_unusable_proxies
drop_unusable_proxies(os.environ)
import httpx
from websockets.proxy import get_proxy
from websockets.uri import parse_uri
print(httpx.get(sys.argv[1] + "/api/health").status_code)
print(get_proxy(parse_uri(sys.argv[1].replace("http", "ws"))))
"""


class Healthy(BaseHTTPRequestHandler):
    """Answers as a Prefect server does when asked for its health."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.fixture
def proxy() -> Iterator[socket.socket]:
    """A listener that nobody should connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("no_proxy", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": ".corp, 10.0.0.0/8"}, ".corp,10.0.0.0/8,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a", "no_proxy": "b"}, "b,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a b\tc,,d"}, "a,b,c,d,127.0.0.1,localhost,::1"),
        ({"no_proxy": "127.0.0.1,localhost,::1"}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "*"}, "*"),
        ({"no_proxy": "*,a"}, "*,a,127.0.0.1,localhost,::1"),
    ],
)
def test_reach_loopback_directly__keeps_what_was_exempt(
    no_proxy: dict[str, str], expected: str
) -> None:
    environment = {"http_proxy": "http://proxy:1"} | no_proxy

    reach_loopback_directly(environment)
    reach_loopback_directly(environment)

    assert environment["no_proxy"] == expected
    assert environment["http_proxy"] == "http://proxy:1"


@pytest.mark.parametrize("environment", [{}, {"no_proxy": "a"}, {"https_proxy": ""}])
def test_reach_loopback_directly__changes_nothing_without_a_proxy(
    environment: dict[str, str],
) -> None:
    before = environment.copy()

    reach_loopback_directly(environment)

    assert environment == before


@pytest.mark.parametrize(
    "value", ["socks4://p:1", "socks5://p:1", "socks5h://p:1", "ftp://p", "http://p:port", "://"]
)
def test_drop_unusable_proxies__drops_what_the_client_cannot_use(value: str) -> None:
    environment = {"ALL_PROXY": value, "https_proxy": "http://proxy:1"}

    drop_unusable_proxies(environment)

    assert environment == {"https_proxy": "http://proxy:1"}


@pytest.mark.parametrize("entry", ["[::1]", "::1/128", "host:port", "ä"])
def test_drop_unusable_proxies__drops_exemptions_that_the_client_cannot_read(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("no_proxy", f".corp,{entry},*.lan,10.0.0.0/8,::1,host:80")

    drop_unusable_proxies(os.environ, proxies=False)

    assert os.environ["no_proxy"] == ".corp,*.lan,10.0.0.0/8,::1,host:80"
    httpx.Client().close()


def test_drop_unusable_proxies__keeps_proxies_where_the_server_is_elsewhere() -> None:
    environment = {"ALL_PROXY": "socks5://p:1"}

    drop_unusable_proxies(environment, proxies=False)

    assert environment == {"ALL_PROXY": "socks5://p:1"}


def test_reach_loopback_directly__other_machines_are_reached_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")

    reach_loopback_directly()

    assert urllib.request.getproxies()["http"] == "http://proxy:1"
    assert not urllib.request.proxy_bypass("example.org:80")
    assert all(urllib.request.proxy_bypass(f"{host}:80") for host in LOOPBACK)


@pytest.mark.parametrize("no_proxy", [{}, {"NO_PROXY": "localhost [::1]"}])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_loopback__no_client_asks_the_proxy(
    scheme: str, no_proxy: dict[str, str], server: str, proxy: socket.socket
) -> None:
    url = f"{scheme}://127.0.0.1:{proxy.getsockname()[1]}"
    proxies = {"http_proxy": url, "HTTPS_PROXY": url, "ALL_PROXY": url}

    asked = subprocess.run(
        [sys.executable, "-c", ASKS, server],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | proxies | no_proxy,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )

    assert asked.stdout == "200\nNone\n"
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_is_up__asks_without_a_proxy(
    server: str, proxy: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")

    assert is_up(f"{server}/api")
    assert not is_gone(f"{server}/api")
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_is_gone__only_where_nothing_listens(proxy: socket.socket) -> None:
    """A busy server that does not answer in time is still there."""
    port = proxy.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        unused = free.getsockname()[1]

    assert not is_up(f"http://127.0.0.1:{port}/api")
    assert not is_gone(f"http://127.0.0.1:{port}/api")
    assert is_gone(f"http://127.0.0.1:{unused}/api")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:4200/api", True),
        ("http://127.1.2.3/api", True),
        ("http://localhost/api", True),
        ("http://[::1]:4200/api", True),
        ("http://10.0.0.1/api", False),
        ("https://example.org/api", False),
        ("nonsense", False),
        ("http://[", False),
    ],
)
def test_is_loopback__by_the_host(url: str, expected: bool) -> None:
    assert is_loopback(url) == expected
