"""Small runs that nothing has disturbed, for comparison."""

import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults import bad_input
from tests.faults.bad_input import Refused, contents, make, refusal
from tests.faults.programs import Program, write_recipe


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Program:
    """Return a finished run. Shared: a test must not change it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    program = Program(write_recipe(folder / "tiny.yaml", tiny_images), folder / "run", folder)
    program.finish()
    return program


@pytest.fixture
def program(undisturbed: Program, tmp_path: Path) -> Program:
    """Return the same recipe with a folder of its own."""
    return Program(undisturbed.recipe, tmp_path / "run", tmp_path / "home")


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
    make(bad_input.write_recipe(folder / "right.yaml", small_source), folder / "run")
    return folder / "run"


@pytest.fixture
def refused(
    earlier_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Refused]:
    """Return what does as a command does and returns its message, with exit code 2.

    The earlier run must stay as it is, to the byte.
    """
    before, handler = contents(earlier_run), signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")  # nothing begins a server
    yield partial(refusal, monkeypatch=monkeypatch, capsys=capsys)
    signal.signal(signal.SIGTERM, handler)
    assert contents(earlier_run) == before
