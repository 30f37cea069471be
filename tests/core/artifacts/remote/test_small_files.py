"""Files beside artifacts, and lists of epochs, on two machines."""

from pathlib import Path

import httpx
import pytest

from deepcluster_core.artifacts.manifest import MANIFEST
from deepcluster_core.artifacts.remote.inventory import stored_inventory
from deepcluster_core.artifacts.remote.mirror import Mirror
from deepcluster_core.artifacts.remote.opening import open_mirror
from deepcluster_core.errors import ArtifactError
from tests.support.store_proxy import Fault, StoreProxy
from tests.support.stored_artifacts import make_artifact


def test_small_files__travel_and_conflict(here: Mirror, there: Mirror) -> None:
    names = "cluster_names.csv"
    (here.root / names).write_text("1")
    here.push_small([names])
    there.pull_small()
    assert (there.root / names).read_text() == "1"

    (there.root / names).write_text("2")
    there.pull_small()  # changed here alone: kept
    there.push_small([names])
    (here.root / names).write_text("3")

    with pytest.raises(ArtifactError, match="was changed on the store"):
        here.push_small([names])
    with pytest.raises(ArtifactError, match="was changed on the store"):
        here.pull_small()
    assert (here.root / names).read_text() == "3"


def test_small_files__marks_of_folders_are_none(
    moto_proxy: StoreProxy, url: str, tmp_path: Path
) -> None:
    """As web consoles of stores make them, and SeaweedFS by itself when a folder becomes empty."""
    mirror = open_mirror(url, tmp_path / "here", None)
    (mirror.root / "config.yaml").write_text("epochs: 1")
    mirror.push_small(["config.yaml"])
    make_artifact(mirror, "labels/epoch=0000", {"a": b"1"})
    place = f"{moto_proxy.address}/{url.removeprefix('s3://')}"
    for folder in ("", "labels/", "labels/epoch=0000/"):
        assert httpx.put(f"{place}/{folder}").status_code == 200
    other = open_mirror(url, tmp_path / "there", None)

    other.pull_small()
    found = stored_inventory(other.store)

    assert [path.name for path in other.root.iterdir()] == ["config.yaml"]
    assert other.epochs("labels") == [0]
    assert (found.others, [*found.artifacts]) == (["config.yaml"], ["labels/epoch=0000"])


def test_small_files__the_last_one_that_was_made_wins(here: Mirror, there: Mirror) -> None:
    (here.root / "report.html").write_text("1")
    here.push_small(["report.html"])
    (there.root / "report.html").write_text("2")
    there.push_small(["report.html"])
    (here.root / "report.html").write_text("3")

    here.pull_small()

    assert (here.root / "report.html").read_text() == "2"


def test_small_files__of_the_runs_of_a_sweep(here: Mirror, there: Mirror) -> None:
    (here.root / "k=00005").mkdir()
    (here.root / "k=00005" / "config.yaml").write_text("epochs: 1")
    here.push_small(["k=00005/config.yaml"])
    here.store.put("k=00005/evaluations/knn/epoch=0000/_manifest.json", b"")

    there.pull_small()

    assert (there.root / "k=00005" / "config.yaml").read_text() == "epochs: 1"
    assert (there.root / "k=00005" / "evaluations" / "knn").is_dir()


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
