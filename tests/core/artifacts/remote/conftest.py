"""A proxy before an object store, and a place on it, for each test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deepcluster_core.artifacts.remote.client import PATIENCE
from tests.support.object_stores import (
    BUCKET,
    ObjectStoreServer,
    environment_of,
)
from tests.support.store_proxy import StoreProxy, store_proxy

PATIENCE_S = 5


@pytest.fixture
def url() -> str:
    """Return a place of a run that no other test uses."""
    return f"s3://{BUCKET}/runs/{uuid4().hex[:12]}"


@pytest.fixture
def proxy(store_server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProxy]:
    """Yield a proxy before each of the servers, through which this process reaches it."""
    yield from _before(store_server, monkeypatch)


@pytest.fixture
def moto_proxy(
    moto_server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StoreProxy]:
    """Yield a proxy before moto, through which this process reaches it."""
    yield from _before(moto_server, monkeypatch)


def _before(server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProxy]:
    with store_proxy("127.0.0.1", server.port) as proxy:
        for name, value in environment_of(proxy.address).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(PATIENCE, str(PATIENCE_S))
        yield proxy


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return a folder for mirrors."""
    return tmp_path / "scratch"
