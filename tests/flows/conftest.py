"""A Prefect server for this folder, a small recipe, finished runs of it, and one that is served."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from deepcluster_core.artifacts.images import Images
from flows.sweep import sweep
from tests.support.flow_runs import KEEP_ALL, SWEPT_EPOCHS, call, loop
from tests.support.look_server import HOSTILE, Served, serving_look
from tests.support.recipes import write_recipe
from tests.support.timeouts import WITHIN_S


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start one server for all flows of this folder; yield its URL."""
    with contextlib.ExitStack() as stack:
        with contextlib.chdir(tmp_path_factory.mktemp("here")):  # Prefect reads ./prefect.toml
            stack.enter_context(prefect_test_harness(server_startup_timeout=WITHIN_S))
        yield PREFECT_API_URL.value()


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the repository: `runs/` and `prefect.toml` are looked for here."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Path:
    """Return a recipe of three epochs; a run of it takes two seconds."""
    return write_recipe(tmp_path_factory.mktemp("recipes") / "tiny.yaml", tiny_images)


@pytest.fixture(scope="session")
def finished_run(
    prefect_server: str, recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a run of three epochs, all features kept. Shared: a test must not change it."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert set(loop(recipe, run, overrides=KEEP_ALL).values()) == {"Completed"}
    return run


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of `finished_run` that a test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def finished_sweep(
    prefect_server: str, recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a sweep over two k, two epochs each. Shared: a test must not change it."""
    root = tmp_path_factory.mktemp("sweeps") / "finished"
    states = call(sweep, k=[8, 4], recipe=str(recipe), run=str(root), epochs=SWEPT_EPOCHS)
    runs = {"deepcluster-0", "deepcluster-1"}  # what Prefect calls them among the tasks
    assert states == dict.fromkeys({"index", "extract epoch 0"} | runs, "Completed")
    return root


@pytest.fixture
def own_sweep(finished_sweep: Path, tmp_path: Path) -> Path:
    """Return a copy of `finished_sweep` that a test may change; no file of it has two names."""
    return shutil.copytree(finished_sweep, tmp_path / "own")


@pytest.fixture(scope="session")
def hostile_run(
    prefect_server: str, tiny_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a run whose files and classes have hostile names, and one of whose files is gone."""
    folder = tmp_path_factory.mktemp("hostile")
    for path in tiny_images.rglob("*.png"):
        to = folder / "source" / f"{path.parent.name}{HOSTILE}" / f"{HOSTILE}{path.name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    run = folder / "<b>run"
    loop(write_recipe(folder / "hostile.yaml", folder / "source"), run, overrides=KEEP_ALL)
    first, *_ = Images(run / "images").paths().to_pylist()
    (folder / "source" / first).unlink()
    return run


@pytest.fixture(scope="session")
def served(hostile_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve that run with `deepcluster look`. A test removes the names that it gives."""
    with serving_look(hostile_run, tmp_path_factory.mktemp("out")) as server:
        yield server
