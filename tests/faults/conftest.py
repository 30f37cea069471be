"""Small runs that nothing has disturbed, for comparison."""

import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.program import Program
from tests.support.ranked_run import RankedRun
from tests.support.recipes import write_recipe, write_small_recipe
from tests.support.refusals import Refused, make, refusal
from tests.support.run_files import contents

INTERRUPTED = {
    "epochs": "2",
    "extract": "{resize: 16, batch_size: 48}",
    "train": "{batch_size: 16, reassign_every: 2}",
    "keep": "{features: null}",
    "compute": "{save_every_steps: 4}",
}
"""The sections of a recipe whose stages save their state several times in an epoch."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Program:
    """Return a finished run. Shared: a test must not change it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_recipe(folder / "tiny.yaml", tiny_images, **INTERRUPTED)
    program = Program(recipe, folder / "run", folder)
    program.finish()
    return program


@pytest.fixture
def program(undisturbed: Program, tmp_path: Path) -> Program:
    """Return the same recipe with a folder of its own."""
    return Program(undisturbed.recipe, tmp_path / "run", tmp_path / "home")


@pytest.fixture
def ranked(tiny_images: Path, tmp_path: Path) -> RankedRun:
    """Return a run of one epoch that has not begun, for any number of ranks."""
    sections = INTERRUPTED | {"epochs": "1"}
    return RankedRun(
        write_recipe(tmp_path / "tiny.yaml", tiny_images, **sections), tmp_path / "run"
    )


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Path:
    """Return a folder of 40 pictures in 4 classes. Shared: a test must not change it."""
    source = tmp_path_factory.mktemp("small") / "source"
    for picture in tiny_images.glob("*/00?.*"):
        place = source / picture.relative_to(tiny_images)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place)
    return source


@pytest.fixture(scope="session")
def earlier_run(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch. Shared: what is refused must not change it."""
    folder = tmp_path_factory.mktemp("earlier")
    make(write_small_recipe(folder / "right.yaml", small_source), folder / "run")
    return folder / "run"


@pytest.fixture
def refused(
    earlier_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Refused]:
    """Return what does as a command does and returns its message, with exit code 2.

    The earlier run must stay as it is, to the byte.
    """
    before, handler = contents(earlier_run, records=True), signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")  # nothing begins a server
    yield partial(refusal, monkeypatch=monkeypatch, capsys=capsys)
    signal.signal(signal.SIGTERM, handler)
    assert contents(earlier_run, records=True) == before
