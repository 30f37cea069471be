"""A SeaweedFS server behind a proxy, a small recipe, and a run of it on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import deepcluster
from tests.support.object_stores import ObjectStoreServer, environment_of
from tests.support.recipes import write_recipe
from tests.support.remote_runs import Machine
from tests.support.store_proxy import StoreProxy, store_proxy

EPOCHS = 2


@pytest.fixture
def server(seaweedfs_server: ObjectStoreServer) -> ObjectStoreServer:
    """Return the server."""
    return seaweedfs_server


@pytest.fixture
def proxy(server: ObjectStoreServer) -> Iterator[StoreProxy]:
    """Start a proxy before the server."""
    with store_proxy("127.0.0.1", server.port) as running:
        yield running


@pytest.fixture
def machine(proxy: StoreProxy, tmp_path: Path) -> Callable[[str], Machine]:
    """Return a function that returns the machine of a name."""

    def of(name: str) -> Machine:
        return Machine(tmp_path / name, environment_of(proxy.address))

    return of


@pytest.fixture
def here(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Machine]:
    """Return a function that makes this process one on the machine of a name."""

    def use(name: str) -> Machine:
        used = machine(name)
        for key, value in used.environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(used.scratch))
        return used

    return use


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a run that only this test uses."""
    return f"s3://bucket/{tmp_path.parent.name}-{tmp_path.name}/demo"


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Path:
    """Return a recipe whose epoch takes a second."""
    return write_recipe(
        tmp_path_factory.mktemp("recipes") / "tiny.yaml",
        tiny_images,
        epochs=str(EPOCHS),
        keep="{features: 1}",
        compute="{device: cpu}",
    )


@pytest.fixture(scope="session")
def local_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on this machine, with which those on the store are compared."""
    run = tmp_path_factory.mktemp("local") / "demo"
    deepcluster.run_epochs(recipe, run, echo=False)
    return run
