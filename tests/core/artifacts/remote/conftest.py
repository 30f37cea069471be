"""A proxy before an object store, a place on it, and mirrors of that place, for each test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deepcluster_core.artifacts.remote.client import PATIENCE
from deepcluster_core.artifacts.remote.mirror import Mirror
from deepcluster_core.artifacts.remote.opening import open_mirror
from tests.support.object_stores import (
    BUCKET,
    ObjectStoreServer,
    environment_of,
)
from tests.support.store_proxy import StoreProxy, store_proxy

PATIENCE_S = 60
"""Half of it is the time limit of a request, which a busy machine must not reach."""


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Return a place of a run that no other test uses, on the server of the test."""
    # Tests of one server use S3.
    is_of_each = "store_server" in request.fixturenames
    scheme = request.getfixturevalue("store_server").scheme if is_of_each else "s3"
    return f"{scheme}://{BUCKET}/runs/{uuid4().hex[:12]}"


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
        for name, value in environment_of(proxy.address, server.scheme).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(PATIENCE, str(PATIENCE_S))
        yield proxy


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return a folder for mirrors."""
    return tmp_path / "scratch"


@pytest.fixture
def here(proxy: StoreProxy, url: str, tmp_path: Path) -> Mirror:
    """Return the mirror of one machine."""
    return open_mirror(url, tmp_path / "here", None)


@pytest.fixture
def there(proxy: StoreProxy, url: str, tmp_path: Path) -> Mirror:
    """Return the mirror of another machine."""
    return open_mirror(url, tmp_path / "there", None)


@pytest.fixture
def own(moto_proxy: StoreProxy, url: str, tmp_path: Path) -> Mirror:
    """Return a mirror for what does not depend on the server."""
    return open_mirror(url, tmp_path / "here", None)
