"""The environment of all tests, and folders of small drawn pictures."""

# ruff: noqa: E402  the environment comes first, see below

import os
import shutil
import sys
import tempfile

# Prefect reads its settings when it is first imported: nobody's profile, server or key may count.
for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]
HOME = tempfile.TemporaryDirectory(prefix="prefect-home-", ignore_cleanup_errors=True)
os.environ["PREFECT_HOME"] = HOME.name
from flows.engine.environment import prepare

prepare()  # settings of OpenMP and Prefect, before those are imported

from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import pytest
import torch
from hypothesis import HealthCheck, settings

from deepcluster_core.data import dicom, extras

# Failed assertions in support code are explained like those of tests.
pytest.register_assert_rewrite("tests.support")

from tests.support.drawn_shapes import draw_images
from tests.support.made_once import made_once
from tests.support.object_stores import ObjectStoreServer, google_store, object_store
from tests.support.prefect_servers import make_prefect_database

# The same examples every time: a red run stays red, and is repeated by running it again.
# Without limits of time, which a busy machine exceeds.
slow = [HealthCheck.too_slow]
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=slow)
settings.load_profile("repeatable")

LONGEST = {
    "test_readme.py",
    "test_kernel.py",
    "test_sweep.py",
    "test_look.py",
    "test_epoch_loop.py",
    "test_linear.py",
    "test_voc_detection.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, or one worker ends with one while others idle."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the packages that decode some formats, as if they had not been installed."""
    _forget_extras()
    for name in ("tifffile", "pydicom", "pillow_heif"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it fails
    yield
    _forget_extras()


def _forget_extras() -> None:
    extras._imported.cache_clear()  # pyright: ignore[reportPrivateUsage]
    dicom._pydicom.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Compute in one thread: on shared cores, two wait for each other longer than they work."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


@pytest.fixture
def make_images() -> Callable[..., Path]:
    """Return `draw_images`, for a test that needs a tree of its own."""
    return draw_images


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 240 pictures in 4 class folders. Shared: a test must not change it."""
    source = made_once(tmp_path_factory, "source", lambda folder: draw_images(folder / "shapes"))
    return source / "shapes"


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new database of Prefect's server, whose migrations take seconds. Shared: copy it."""
    return made_once(tmp_path_factory, "prefect", make_prefect_database) / "prefect.db"


@pytest.fixture
def prefect_home(prefect_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make servers that the test starts find a database, in a folder of its own."""
    home = tmp_path / "prefect-home"
    home.mkdir()
    shutil.copy(prefect_database, home)
    monkeypatch.setenv("PREFECT_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """Yield an object store that keeps its data in files. Shared: use a place of your own."""
    with object_store("seaweedfs", tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """Yield an object store that keeps its data in memory, quick to start. Shared."""
    with object_store("moto", tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """Yield Microsoft's emulator of Azure's object store. Shared."""
    with object_store("azurite", tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def google_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """Yield a stand-in for Google Cloud Storage. Shared."""
    with google_store(tmp_path_factory.mktemp("google")) as server:
        yield server


SLOW_SERVERS = ("moto", "azurite", "google")


@pytest.fixture(
    params=["seaweedfs", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_SERVERS)]
)
def store_server(request: pytest.FixtureRequest) -> ObjectStoreServer:
    """Return a running object store; tests that use it run with each kind, all but one if slow."""
    return request.getfixturevalue(f"{request.param}_server")
