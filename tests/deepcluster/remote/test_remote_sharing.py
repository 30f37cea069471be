"""What several runs of a sweep on an object store share is uploaded once, and copied there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.mirrored import commit, lease
from deepcluster_core.artifacts.remote.mirror import Mirror
from deepcluster_core.artifacts.remote.opening import open_mirror
from deepcluster_core.artifacts.remote.store import Store
from deepcluster_core.context import Context
from deepcluster_core.errors import StoreError
from stages.index import index
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.sharing import give
from tests.support.remote_runs import Machine
from tests.support.store_proxy import StoreProxy
from tests.support.stored_images import dataset

PART = "pixels/part-00000.arrow"


@pytest.fixture(params=["s3", "file"])
def mirror(
    request: pytest.FixtureRequest, here: Callable[[str], Machine], url: str, tmp_path: Path
) -> Mirror:
    """Return the mirror of a sweep."""
    here("first")
    place = url if request.param == "s3" else f"file://{tmp_path}/store/demo"
    return open_mirror(place, tmp_path / "scratch", None)


@pytest.fixture
def made(mirror: Mirror, tiny_images: Path) -> Job:
    """Return the job whose images are made and published."""
    section = dataset(tiny_images, channels=1, encoding="raw")
    source = section.open_source().fingerprint()
    job = Job(index, {"dataset": section}, {"source": source}, mirror.root / "images", 1, None)
    with lease(job.out):
        job.run(Context(seed=1))
        commit(job.out)
    return job


def test_give__the_store_copies_what_is_not_even_here(
    mirror: Mirror, made: Job, proxy: StoreProxy, tmp_path: Path
) -> None:
    run = RunFolder(mirror.root / "k=00004")
    wanted = replace(made, out=run.root / "images")
    digest = read_manifest(made.out).digest
    (made.out / PART).unlink()  # evicted, to make room
    proxy.forget()

    give(made, wanted, run)

    assert proxy.counts_of(PART)["GET"] == 0
    assert not (wanted.out / PART).exists()
    assert (wanted.out / "index.parquet").stat().st_ino == (
        made.out / "index.parquet"
    ).stat().st_ino
    other = open_mirror(mirror.url, tmp_path / "other", None)
    other.refresh(other.root / "k=00004/images")
    other.fetch(other.root / "k=00004/images")
    assert inspect(other.root / "k=00004/images") == (Condition.WHOLE, "")
    assert read_manifest(other.root / "k=00004/images").digest == digest


def test_give__uploads_where_the_store_cannot_copy(
    mirror: Mirror, made: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(_: Store, source: str, __: str) -> None:
        raise StoreError(f"{source}: 501 Not Implemented")

    monkeypatch.setattr(Store, "copy", copy)
    run = RunFolder(mirror.root / "k=00004")
    wanted = replace(made, out=run.root / "images")

    give(made, wanted, run)

    other = open_mirror(mirror.url, tmp_path / "other", None)
    other.refresh(other.root / "k=00004/images")
    other.fetch(other.root / "k=00004/images")
    assert inspect(other.root / "k=00004/images") == (Condition.WHOLE, "")
