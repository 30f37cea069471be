"""What a mirror publishes, and which of several machines may commit it."""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from deepcluster_core.artifacts.manifest import MANIFEST, Condition, inspect, read_manifest
from deepcluster_core.artifacts.remote.client import PATIENCE
from deepcluster_core.artifacts.remote.lease import Times
from deepcluster_core.artifacts.remote.mirror import Mirror
from deepcluster_core.artifacts.remote.opening import open_mirror
from deepcluster_core.artifacts.remote.room import Room
from deepcluster_core.errors import ArtifactError, LeaseLostError, StoreError
from tests.support.store_proxy import Fault, StoreProxy
from tests.support.stored_artifacts import FILES, LABELS, make_artifact, write_artifact

ALWAYS = 1_000_000


def test_commit__lost_response_is_recognised(here: Mirror, proxy: StoreProxy) -> None:
    lost = proxy.fail(Fault("lost", "PUT", MANIFEST))

    folder = make_artifact(here, LABELS, FILES)

    assert lost.hits == 1
    assert not here.is_unpublished(folder)


def test_commit__other_process_with_the_same_key(here: Mirror, there: Mirror) -> None:
    folder = here.root / LABELS
    here.refresh(folder)
    write_artifact(folder, FILES, attempt="one")
    make_artifact(there, LABELS, FILES)

    here.commit(folder)

    assert read_manifest(folder) == read_manifest(there.root / LABELS)
    assert inspect(folder) == (Condition.WHOLE, "")


def test_commit__other_process_with_another_key(here: Mirror, there: Mirror) -> None:
    folder = here.root / LABELS
    here.refresh(folder)
    write_artifact(folder, FILES, attempt="one")
    make_artifact(there, LABELS, {"labels.parquet": b"others"}, key="another key")

    with pytest.raises(ArtifactError, match="another process has committed a different artifact"):
        here.commit(folder)


def test_commit__never_before_the_files(here: Mirror, proxy: StoreProxy) -> None:
    make_artifact(here, LABELS, FILES)

    paths = [request.path for request in proxy.requests if request.method == "PUT"]
    assert paths[-1].endswith(f"/{MANIFEST}")


def test_publish__failure_in_the_background_is_repaired(here: Mirror, proxy: StoreProxy) -> None:
    proxy.fail(Fault("busy", "PUT", "c/0/0", times=3))

    folder = make_artifact(here, LABELS, FILES)

    assert not here.is_unpublished(folder)


def test_commit__store_gone_then_back(
    own: Mirror, moto_proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0.5")
    impatient = open_mirror(own.url, tmp_path / "impatient", None)
    moto_proxy.fail(Fault("busy", "PUT", MANIFEST, times=ALWAYS))
    with pytest.raises(StoreError, match="run the same command again"):
        make_artifact(impatient, LABELS, FILES)
    folder = impatient.root / LABELS
    moto_proxy.forget()

    # What the next start of the same command does: nothing is computed or uploaded twice.
    impatient.refresh(folder)
    assert impatient.is_unpublished(folder)
    assert inspect(folder) == (Condition.WHOLE, "")
    with impatient.lease(folder):
        impatient.complete(folder)

    assert not impatient.is_unpublished(folder)
    assert moto_proxy.counts_of("features.zarr") == {"HEAD": 3}
    own.refresh(own.root / LABELS)
    own.fetch(own.root / LABELS)


def test_commit__file_changed_after_the_manifest(own: Mirror) -> None:
    folder = own.root / LABELS
    own.refresh(folder)
    write_artifact(folder, FILES, attempt="one")
    (folder / "labels.parquet").write_bytes(b"changed")

    with pytest.raises(ArtifactError, match="changed since it was committed; not published"):
        own.commit(folder)

    assert own.store.get(f"{LABELS}/{MANIFEST}") is None


def test_commit__files_of_another_rank(own: Mirror, moto_proxy: StoreProxy, tmp_path: Path) -> None:
    """Ranks on two machines, whose folders have only what each has written."""
    other = open_mirror(own.url, tmp_path / "other", None)
    shard = "features.zarr/c/1/0"
    folder = own.root / LABELS
    own.refresh(folder)
    with own.lease(folder):
        write_artifact(other.root / LABELS, {shard: FILES[shard]})
        other.publish(other.root / LABELS, [shard])
        other.flush(other.root / LABELS)
        write_artifact(folder, FILES, attempt="one")
        (folder / shard).unlink()  # the first rank has only the record of it

        own.commit(folder, uploaded=[shard])

    assert moto_proxy.counts_of(shard) == {"PUT": 1}
    own.fetch(folder)
    assert inspect(folder) == (Condition.WHOLE, "")


def test_flush__raises_what_failed(
    own: Mirror, moto_proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0.5")
    impatient = open_mirror(own.url, tmp_path / "impatient", None)
    folder = impatient.root / LABELS
    write_artifact(folder, FILES)
    moto_proxy.fail(Fault("busy", "PUT", times=ALWAYS))
    impatient.publish(folder, ["labels.parquet"])

    with pytest.raises(StoreError):
        impatient.flush(folder)


def test_lease__lost_to_another_process(own: Mirror) -> None:
    folder = own.root / LABELS
    mirror = Mirror(own.url, own.root, Room(own.root.parent.parent, None), Times(5, 0.1, 0.05))
    mirror.refresh(folder)
    with mirror.lease(folder):
        write_artifact(folder, FILES, attempt=uuid4().hex)
        mirror.store.put(f"{LABELS}/_lease", b'{"attempt": "of another process"}')
        _until(lambda: _is_lost(mirror, folder))

        with pytest.raises(LeaseLostError, match="another process has taken it over"):
            mirror.publish(folder, [*FILES])
        with pytest.raises(LeaseLostError):
            mirror.commit(folder)

    assert mirror.store.get(f"{LABELS}/{MANIFEST}") is None
    assert mirror.store.get(f"{LABELS}/_lease") is not None  # the other's


def _is_lost(mirror: Mirror, folder: Path) -> bool:
    try:
        mirror.publish(folder, [])
    except LeaseLostError:
        return True
    return False


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
