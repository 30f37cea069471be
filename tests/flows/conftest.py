"""A Prefect server for this folder, a small recipe, finished runs of it, and one that is served."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcluster_core.artifacts.images import Images
from flows.sweep import sweep
from tests.support.flow_runs import (
    KEEP_ALL,
    SWEPT_EPOCHS,
    call,
    in_state,
    loop,
    states_of_run,
    tasks,
)
from tests.support.look_server import HOSTILE, Served, serving_look
from tests.support.made_once import made_once
from tests.support.prefect_servers import running_server
from tests.support.recipes import write_recipe


@pytest.fixture(scope="session")
def prefect_server(
    prefect_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Start one server for all flows of this folder; yield its URL."""
    with running_server(prefect_database, tmp_path_factory.mktemp("prefect-server")) as url:
        yield url


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the repository: `runs/` and `prefect.toml` are looked for here."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Path:
    """Return a recipe of three epochs; a run of it takes two seconds."""
    recipes = made_once(
        tmp_path_factory, "recipes", lambda folder: write_recipe(folder / "tiny.yaml", tiny_images)
    )
    return recipes / "tiny.yaml"


@pytest.fixture(scope="session")
def finished_run(
    prefect_server: str, recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a run of three epochs, all features kept. Shared: a test must not change it."""

    def make(folder: Path) -> None:
        states = loop(recipe, folder / "finished", overrides=KEEP_ALL)
        assert set(states.values()) == {"Completed"}

    made = made_once(tmp_path_factory, "finished-run", make) / "finished"
    return shutil.copytree(made, tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of `finished_run` that a test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def finished_sweep(
    prefect_server: str, recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a sweep over two k, two epochs each. Shared: a test must not change it."""

    def make(folder: Path) -> None:
        root = folder / "finished"
        states = call(sweep, k=[8, 4], recipe=str(recipe), run=str(root), epochs=SWEPT_EPOCHS)
        runs = {"deepcluster-0", "deepcluster-1"}  # what Prefect calls them among the tasks
        assert states == dict.fromkeys({"index", "extract epoch 0"} | runs, "Completed")
        for k in (4, 8):
            states = states_of_run(f"finished/k={k:05d}")
            assert in_state(states, "Cached") == {"index", "extract epoch 0"}
            assert in_state(states, "Completed") == tasks(0, 1) - {"extract epoch 0"}

    # Not a copy, because its runs share files.
    return made_once(tmp_path_factory, "finished-sweep", make) / "finished"


@pytest.fixture
def own_sweep(finished_sweep: Path, tmp_path: Path) -> Path:
    """Return a copy of `finished_sweep` that a test may change; no file of it has two names."""
    return shutil.copytree(finished_sweep, tmp_path / "own")


@pytest.fixture(scope="session")
def hostile_run(
    prefect_server: str, tiny_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a run whose files and classes have hostile names, and one of whose files is gone."""

    def make(folder: Path) -> None:
        for path in tiny_images.rglob("*.png"):
            to = folder / "source" / f"{path.parent.name}{HOSTILE}" / f"{HOSTILE}{path.name}"
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
        run = folder / "run"
        loop(write_recipe(folder / "hostile.yaml", folder / "source"), run, overrides=KEEP_ALL)
        first, *_ = Images(run / "images").paths().to_pylist()
        (folder / "source" / first).unlink()

    made = made_once(tmp_path_factory, "hostile-run", make) / "run"
    return shutil.copytree(made, tmp_path_factory.mktemp("hostile") / "<b>run")


@pytest.fixture(scope="session")
def served(hostile_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve that run with `deepcluster look`. A test removes the names that it gives."""
    with serving_look(hostile_run, tmp_path_factory.mktemp("out")) as server:
        yield server
