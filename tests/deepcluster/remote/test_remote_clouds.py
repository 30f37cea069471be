"""A run on Azure's emulator, and on what speaks as Google does: made, read, continued, copied."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import deepcluster
from tests.support.object_stores import BUCKET, ObjectStoreServer, environment_of
from tests.support.remote_runs import Machine, contents
from tests.support.store_proxy import StoreProxy, store_proxy
from tests.support.stored_images import upload_to
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow
Here = Callable[[str], Machine]


@pytest.fixture(params=["azurite", "google"])
def server(request: pytest.FixtureRequest) -> ObjectStoreServer:
    """Return each of the servers that do not speak S3."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def proxy(server: ObjectStoreServer) -> Iterator[StoreProxy]:
    """Start a proxy before the server."""
    with store_proxy("127.0.0.1", server.port) as running:
        yield running


@pytest.fixture
def machine(
    server: ObjectStoreServer, proxy: StoreProxy, tmp_path: Path
) -> Callable[[str], Machine]:
    """Return a function that returns the machine of a name."""
    environment = environment_of(proxy.address, server.scheme)
    return lambda name: Machine(tmp_path / name, environment)


@pytest.fixture
def url(server: ObjectStoreServer, tmp_path: Path) -> str:
    """Return the URL of a run that only this test uses."""
    return f"{server.scheme}://{BUCKET}/{tmp_path.parent.name}-{tmp_path.name}/demo"


def command(*words: str | Path) -> str:
    """Return the output of a command, which must succeed."""
    ended = subprocess.run(
        [sys.executable, "-c", "from flows.cli.start import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_run_epochs__made_on_one_machine_and_continued_on_another(
    here: Here, url: str, recipe: Path, local_run: Path
) -> None:
    here("first")
    deepcluster.run_epochs(recipe, url, epochs=1, echo=False)
    assert "checkpoint" in command("show", url)

    second = here("second")
    assert len(deepcluster.open_run(url).metrics()) == 1
    deepcluster.run_epochs(recipe, url, epochs=2, echo=False)

    assert contents(second.mirror) == contents(local_run)
    here("third")
    run, expected = deepcluster.open_run(url), deepcluster.open_run(local_run)
    assert run.labels().equals(expected.labels())
    assert (run.features() == expected.features()).all()


def test_open_run__small_files_are_not_fetched_again(
    here: Here, url: str, recipe: Path, proxy: StoreProxy
) -> None:
    here("first")
    deepcluster.run_epochs(recipe, url, epochs=1, echo=False)
    here("second")
    command("show", url)
    proxy.forget()

    command("show", url)

    assert proxy.counts_of("config.yaml")["GET"] == 0
    assert proxy.counts()["LIST"] > 0


def test_push_and_pull__same_bytes(here: Here, url: str, local_run: Path, tmp_path: Path) -> None:
    here("first")
    command("push", local_run, url)
    assert "nothing to do" in command("push", local_run, url)

    command("pull", url, tmp_path / "copy")

    assert contents(tmp_path / "copy") == contents(local_run)


def test_run_epochs__images_from_the_store(
    here: Here, url: str, tiny_images: Path, recipe: Path, local_run: Path, tmp_path: Path
) -> None:
    here("first")
    source = url.removesuffix("/demo") + "/images"
    upload_to(source, tiny_images)
    dataset = recipe.read_text()
    assert str(tiny_images) in dataset
    stored = tmp_path / "stored.yaml"
    stored.write_text(dataset.replace(str(tiny_images), source))

    deepcluster.run_epochs(stored, tmp_path / "run", epochs=1, echo=False)

    made, expected = deepcluster.open_run(tmp_path / "run"), deepcluster.open_run(local_run)
    assert (made.image(7) == expected.image(7)).all()
