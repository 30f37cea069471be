"""Small pictures and recipes on which the sides of benchmarks run in this process."""

import importlib
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from benchmarks.pictures import write_pictures
from tests.support.labelled_pictures import write_labelled_pictures
from tests.support.tiny_benchmark import TINY


@pytest.fixture(autouse=True)
def _without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name results as on this processor, also where the tests compute as an older one."""
    monkeypatch.setattr(harness, "instruction_limit", lambda: None)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 24 pictures. Shared: a test must not change it."""
    folder = tmp_path_factory.mktemp("benchmark") / "pictures"
    write_pictures(folder, count=24)
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Parquet file of 72 pictures with labels. Shared: a test must not change it."""
    path = tmp_path_factory.mktemp("labelled") / "pictures.parquet"
    write_labelled_pictures(path)
    return path


@pytest.fixture
def overrides(pictures: Path) -> dict[str, Any]:
    """Return `TINY` on these pictures."""
    return TINY | {"dataset": {**TINY["dataset"], "source": str(pictures), "encoding": "raw"}}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run sides here: their processes have tests of their own, and take seconds to start."""

    def run(side: harness.Side) -> harness.Figures:
        module, _, name = side.target.partition(":")
        start = time.perf_counter()
        figures = getattr(importlib.import_module(module), name)(**side.arguments) or {}
        return {"seconds": time.perf_counter() - start, "peak_bytes": 1 << 30, **figures}

    monkeypatch.setattr(harness.Side, "run", run)
