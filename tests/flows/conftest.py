"""A Prefect server for this folder, a small recipe, and what tests ask of Prefect and of a run."""

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from deepcluster_core.artifacts.manifest import MANIFEST, Manifest, read_manifest
from flows.epoch_loop import deepcluster
from flows.sweep import sweep
from tests.patience import WITHIN_S

PROGRAM = Path(sys.executable).with_name("deepcluster")
# Threads on a few hundred small pictures wait for each other: ten times slower on busy cores.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
"""Of every process that a test starts."""
KEEP_ALL: dict[str, Any] = {"keep": {"features": None}}
SWEPT_EPOCHS = 2
STAGES = ("extract", "cluster", "train", "score")
RECIPE = """
epochs: 3
dataset: {{source: {source}, shorter_side: 16, channels: 1, encoding: raw}}
network: {{name: smallnet, image_size: 16}}
extract: {{resize: 16}}
cluster: {{k: 8, pca_dim: 8}}
train: {{batch_size: 32}}
"""


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


def write_recipe(path: Path, source: Path) -> Path:
    path.write_text(RECIPE.format(source=source))
    return path


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


def loop(recipe: Path, run: Path, **parameters: object) -> dict[str, str]:
    """Run the whole loop; return the state that Prefect has of each task."""
    return call(deepcluster, recipe=str(recipe), run=str(run), **parameters)


def call(flow: Flow[..., Any], **parameters: object) -> dict[str, str]:
    """Call a flow; return the names of its task runs and their states, as the server has them."""
    state = flow(**parameters, return_state=True)
    state.result()
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        return recorded_tasks(client, state.state_details.flow_run_id)


def recorded_tasks(client: SyncPrefectClient, flow_run_id: UUID) -> dict[str, str]:
    """Return task states once all are final: Prefect's recorder comes some seconds behind."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    deadline = time.monotonic() + WITHIN_S
    while True:
        runs = client.read_task_runs(flow_run_filter=of_run)
        if runs and all(run.state and run.state.is_final() for run in runs):
            return {run.name: run.state.name or "" for run in runs if run.state}
        assert time.monotonic() < deadline, f"not recorded: {runs}"
        time.sleep(0.05)


def tasks(*epochs: int) -> set[str]:
    """Return the names of the tasks of these epochs."""
    return {f"{stage} epoch {epoch}" for epoch in epochs for stage in STAGES}


def in_state(states: dict[str, str], wanted: str) -> set[str]:
    return {name for name, state in states.items() if state == wanted}


def manifests(run: Path) -> dict[str, Manifest]:
    """Return the manifest of every artifact of a run by its folder: `labels/epoch=0001`."""
    return {
        path.parent.relative_to(run).as_posix(): read_manifest(path.parent)
        for path in sorted(run.rglob(MANIFEST))
    }


def made_since(before: dict[str, Manifest], run: Path) -> set[str]:
    """Return the artifacts whose stage ran since `before`; deleting to save space is no run."""

    def as_made(manifest: Manifest) -> Manifest:
        return manifest.model_copy(update={"pruned": False, "checksum": ""})

    now = manifests(run)
    return {
        name for name in now if name not in before or as_made(now[name]) != as_made(before[name])
    }


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Return when each file of a run was written, and its digest; Prefect's records left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in files
        if ".prefect" not in path.parts
    }


def artifact_contents(run: Path) -> dict[str, tuple[int, str]]:
    """Return `contents` of the artifacts alone; locks are no part of them."""
    return {
        name: found
        for name, found in contents(run).items()
        if "/" in name and not name.endswith(".lock")
    }
