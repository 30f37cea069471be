"""Mirrors of two machines of one run, against two real servers."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
import zarr.storage

from deepcluster_core.artifacts.manifest import MANIFEST, Condition, inspect, read_manifest
from deepcluster_core.artifacts.remote.lease import Times
from deepcluster_core.artifacts.remote.mirror import Mirror
from deepcluster_core.artifacts.remote.opening import REMOTE, mirror_of, open_mirror
from deepcluster_core.artifacts.remote.room import Room
from deepcluster_core.errors import ArtifactError
from tests.support.object_stores import SECRET_KEY
from tests.support.store_proxy import StoreProxy
from tests.support.stored_artifacts import FILES, LABELS, LARGE, make_artifact, write_artifact


def test_mirror__another_machine_gets_the_artifact(here: Mirror, there: Mirror) -> None:
    made = make_artifact(here, LABELS, FILES)
    folder = there.root / LABELS

    there.refresh(folder)
    assert [path.name for path in folder.rglob("*")] == [MANIFEST]  # files come when needed
    there.fetch(folder)

    assert inspect(folder) == (Condition.WHOLE, "")
    for name in (*FILES, MANIFEST):
        assert (folder / name).read_bytes() == (made / name).read_bytes()
    for name in FILES:
        assert (folder / name).stat().st_mtime_ns == (made / name).stat().st_mtime_ns


def test_mirror__requests_of_an_artifact(here: Mirror, proxy: StoreProxy) -> None:
    make_artifact(here, LABELS, FILES)

    # GET of the manifest; PUT of the lease, four files and the manifest. The lease is deleted by
    # POST, which takes many names; Google takes one by DELETE.
    delete = "DELETE" if here.url.startswith("gs:") else "POST"
    assert proxy.counts() == {"GET": 1, "PUT": 6, delete: 1}


def test_refresh__unchanged_costs_one_request(here: Mirror, proxy: StoreProxy) -> None:
    folder = make_artifact(here, LABELS, FILES)
    proxy.forget()

    here.refresh(folder)
    here.fetch(folder)

    assert proxy.counts() == {"GET": 1}
    assert proxy.heads[-1].split()[1] == b"304"


def test_fetch__one_file_or_folder(here: Mirror, there: Mirror, proxy: StoreProxy) -> None:
    make_artifact(here, LABELS, FILES)
    folder = there.root / LABELS
    there.refresh(folder)
    proxy.forget()

    there.fetch(folder / "labels.parquet")
    assert proxy.counts() == {"GET": 1}
    there.fetch(folder / "features.zarr")
    there.fetch(folder / "features.zarr/c/1/0")

    assert proxy.counts() == {"GET": 4}
    with pytest.raises(ArtifactError, match="is not named by the manifest"):
        there.fetch(folder / "other")


def test_fetch__tampered_object_is_not_used(here: Mirror, there: Mirror) -> None:
    make_artifact(here, LABELS, FILES)
    here.store.put(f"{LABELS}/features.zarr/c/0/0", b"2" * LARGE)
    folder = there.root / LABELS
    there.refresh(folder)

    with pytest.raises(ArtifactError, match="its contents differ from the digest"):
        there.fetch(folder / "features.zarr")

    assert not (folder / "features.zarr/c/0/0").exists()
    assert not [*folder.rglob("*.part")]


def test_fetch__missing_object(here: Mirror, there: Mirror) -> None:
    make_artifact(here, LABELS, FILES)
    here.store.delete([f"{LABELS}/labels.parquet"])
    folder = there.root / LABELS
    there.refresh(folder)

    with pytest.raises(ArtifactError, match=r"it is missing\.\n  Cause: .*\n  Fix:"):
        there.fetch(folder / "labels.parquet")


def test_inspect__a_damaged_copy_is_fetched_again(here: Mirror, there: Mirror) -> None:
    make_artifact(here, LABELS, FILES)
    folder = there.root / LABELS
    there.refresh(folder)
    there.fetch(folder)
    (folder / "labels.parquet").write_bytes(FILES["labels.parquet"][:-1])

    assert inspect(folder) == (Condition.WHOLE, "")
    there.fetch(folder)

    assert (folder / "labels.parquet").read_bytes() == FILES["labels.parquet"]


def test_fetch__half_written_local_file_is_replaced(here: Mirror, there: Mirror) -> None:
    make_artifact(here, LABELS, FILES)
    folder = there.root / LABELS
    (folder / "features.zarr/c/0").mkdir(parents=True)
    (folder / "features.zarr/c/0/0").write_bytes(b"x" * LARGE)

    there.refresh(folder)
    there.fetch(folder)

    assert inspect(folder) == (Condition.WHOLE, "")
    assert (folder / "features.zarr/c/0/0").read_bytes() == FILES["features.zarr/c/0/0"]


def test_refresh__newer_version_keeps_equal_files(
    here: Mirror, there: Mirror, proxy: StoreProxy
) -> None:
    make_artifact(here, LABELS, FILES)
    folder = there.root / LABELS
    there.refresh(folder)
    there.fetch(folder)
    make_artifact(here, LABELS, FILES | {"labels.parquet": b"other"}, key="another key")
    proxy.forget()

    there.refresh(folder)
    there.fetch(folder)

    assert (folder / "labels.parquet").read_bytes() == b"other"
    assert proxy.counts() == {"GET": 2}  # the manifest and the one file that differs


def test_refresh__deleted_on_the_store(here: Mirror, there: Mirror) -> None:
    make_artifact(here, LABELS, FILES)
    folder = there.root / LABELS
    there.refresh(folder)
    there.fetch(folder)
    here.store.delete([f"{LABELS}/{MANIFEST}"])

    there.refresh(folder)

    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_refresh__lost_local_manifest(here: Mirror) -> None:
    folder = make_artifact(here, LABELS, FILES)
    (folder / MANIFEST).unlink()

    here.refresh(folder)

    assert inspect(folder) == (Condition.WHOLE, "")


def test_refresh__damaged_manifest_of_the_store(here: Mirror) -> None:
    here.store.put(f"{LABELS}/{MANIFEST}", b"{}")

    with pytest.raises(ArtifactError, match="cannot be read as a manifest"):
        here.refresh(here.root / LABELS)


def test_refresh__hostile_manifest_of_the_store(here: Mirror, there: Mirror) -> None:
    folder = make_artifact(here, LABELS, {"a": b"1"})
    text = (folder / MANIFEST).read_text().replace('"a": {', '"../../../escaped": {')
    here.store.put(f"{LABELS}/{MANIFEST}", text.encode())

    with pytest.raises(ArtifactError, match="cannot be read as a manifest"):
        there.refresh(there.root / LABELS)


def test_prune__is_seen_by_others(here: Mirror, there: Mirror) -> None:
    made = make_artifact(here, LABELS, FILES)
    folder = there.root / LABELS
    there.refresh(folder)
    there.fetch(folder)

    here.prune(made)
    there.refresh(folder)

    assert inspect(folder)[0] is Condition.PRUNED
    assert not (folder / "labels.parquet").exists()
    assert [found.name for found in here.store.list(LABELS)] == [f"{LABELS}/{MANIFEST}"]
    assert (made / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()


def test_mirror_of__finds_it_from_any_folder(
    own: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mirror_of(own.root / LABELS) is own
    assert mirror_of(own.root) is own
    assert mirror_of(tmp_path / "runs/demo/labels") is None
    assert mirror_of(tmp_path / "remote/0123456789abcdef/demo") is None
    monkeypatch.chdir(own.root)
    assert mirror_of(Path("labels")) is own


def test_mirror__no_secret_in_its_folder(own: Mirror, tmp_path: Path) -> None:
    make_artifact(own, LABELS, FILES)
    (own.root / "config.yaml").write_text("epochs: 1")
    own.push_small(["config.yaml"])

    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET_KEY.encode() not in path.read_bytes()
    for found in own.store.list(""):
        body = own.store.get(found.name)
        assert body is not None
        assert SECRET_KEY.encode() not in body[0]


def test_mirror__published_arrays_and_tables_are_read_by_others(
    own: Mirror, moto_proxy: StoreProxy, tmp_path: Path
) -> None:
    folder = own.root / LABELS
    own.refresh(folder)
    rows_ND = np.arange(64, dtype=np.float32).reshape(16, 4)
    array = zarr.create_array(folder / "features.zarr", shape=(16, 4), dtype="float32")
    array[:] = rows_ND
    table = pd.DataFrame({"image_id": range(16), "cluster": 3})
    table.to_parquet(folder / "labels.parquet")
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    make_artifact(own, LABELS, files)

    from obstore.store import S3Store  # noqa: PLC0415

    client = S3Store.from_url(f"{own.url}/{LABELS}", client_options={"allow_http": True})
    opened = zarr.open_array(zarr.storage.ObjectStore(client, read_only=True), path="features.zarr")
    np.testing.assert_array_equal(opened[:], rows_ND)
    own.store.download(f"{LABELS}/labels.parquet", tmp_path / "labels.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "labels.parquet"), table)


def test_mirror__two_machines_make_it_once(here: Mirror, there: Mirror) -> None:
    made: list[str] = []

    def make(mirror: Mirror, name: str) -> None:
        folder = mirror.root / LABELS
        mirror.refresh(folder)
        with mirror.lease(folder):
            mirror.refresh(folder)
            if not (folder / MANIFEST).exists():
                made.append(name)
                mirror.withdraw(folder)
                write_artifact(folder, FILES, attempt=name)
                mirror.commit(folder)

    for mirror in (here, there):
        shutil.rmtree(mirror.root)
        mirror.root.mkdir()
    quick = [
        Mirror(one.url, one.root, Room(one.root.parent.parent, None), Times(look_s=0.05))
        for one in (here, there)
    ]
    threads = [
        threading.Thread(target=make, args=(one, f"{number}")) for number, one in enumerate(quick)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1
    assert read_manifest(here.root / LABELS) == read_manifest(there.root / LABELS)


def test_open_mirror__is_one_object_in_a_process(own: Mirror, tmp_path: Path) -> None:
    with own.lease(own.root / LABELS):
        # What another process writes that looks at the run with another recipe.
        (own.root.parent / REMOTE).write_text(json.dumps({"url": own.url, "scratch_bytes": 7}))
        assert mirror_of(own.root) is own, "or else it would not know the lease"

    assert open_mirror(own.url, tmp_path / "here", 10**9) is own
    assert own.room.limit == 10**9
