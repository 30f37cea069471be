"""Files beside artifacts, and lists of epochs, on two machines."""

from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import MANIFEST
from deepcluster_core.artifacts.remote.mirror import Mirror, open_mirror
from deepcluster_core.errors import ArtifactError
from tests.support.store_proxy import Fault, StoreProxy


@pytest.fixture
def here(proxy: StoreProxy, url: str, tmp_path: Path) -> Mirror:
    """Return the mirror of one machine."""
    return open_mirror(url, tmp_path / "here", None)


@pytest.fixture
def there(proxy: StoreProxy, url: str, tmp_path: Path) -> Mirror:
    """Return the mirror of another machine."""
    return open_mirror(url, tmp_path / "there", None)


def test_small_files__travel_and_conflict(here: Mirror, there: Mirror) -> None:
    (here.root / "config.yaml").write_text("epochs: 1")
    here.push_small(["config.yaml"])
    there.pull_small()
    assert (there.root / "config.yaml").read_text() == "epochs: 1"

    (there.root / "config.yaml").write_text("epochs: 2")
    there.pull_small()  # changed here alone: kept
    there.push_small(["config.yaml"])
    (here.root / "config.yaml").write_text("epochs: 3")

    with pytest.raises(ArtifactError, match="was changed on the store"):
        here.push_small(["config.yaml"])
    with pytest.raises(ArtifactError, match="was changed on the store"):
        here.pull_small()
    assert (here.root / "config.yaml").read_text() == "epochs: 3"


def test_small_files__lost_response(here: Mirror, proxy: StoreProxy) -> None:
    (here.root / "config.yaml").write_text("epochs: 1")
    proxy.fail(Fault("lost", "PUT"))

    here.push_small(["config.yaml"])
    here.push_small(["config.yaml"])

    assert proxy.counts()["PUT"] == 2  # the lost one, and its repetition


def test_epochs__listed_once(here: Mirror, proxy: StoreProxy) -> None:
    for epoch in (10, 2):
        here.store.put(f"labels/epoch={epoch:04d}/{MANIFEST}", b"")

    assert here.epochs("labels") == [2, 10]
    assert here.epochs("labels") == [2, 10]
    assert proxy.counts()["LIST"] == 1
    assert here.epochs("metrics") == []
