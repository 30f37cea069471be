"""A finished run of two epochs over drawn pictures, of which some have no class."""

import shutil
from pathlib import Path

import pytest

import deepcluster
from stages.runs.past_run import PastRun
from tests.support.recipes import write_recipe

EPOCHS = 2
SECTIONS = {"extract": "{resize: 16, precision: float32}", "compute": "{device: cpu, workers: 1}"}


@pytest.fixture(scope="session")
def pictures(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the drawn pictures, and a copy of one of them; shared."""
    folder = tmp_path_factory.mktemp("pictures") / "shapes"
    shutil.copytree(tiny_images, folder)
    shutil.copy(folder / "disc" / "000.png", folder / "disc" / "copy of 000.png")
    return folder


@pytest.fixture(scope="session")
def shared_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run. Shared: a test must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = write_recipe(folder / "shapes.yaml", pictures, epochs=str(EPOCHS), **SECTIONS)
    deepcluster.run_epochs(recipe, folder / "shapes", echo=False)
    return folder / "shapes"


@pytest.fixture
def past(shared_run: Path) -> PastRun:
    """Return the shared run, opened."""
    return PastRun.open(str(shared_run))


@pytest.fixture
def own_run(shared_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may change."""
    return shutil.copytree(shared_run, tmp_path / "runs" / "own")
