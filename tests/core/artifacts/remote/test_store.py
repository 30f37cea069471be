"""The client against two real servers, through a proxy that makes requests fail."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from deepcluster_core.artifacts.remote.client import PATIENCE
from deepcluster_core.artifacts.remote.store import SHA256, UNCHANGED, Store, is_same_version
from deepcluster_core.artifacts.remote.streams import PART_BYTES
from deepcluster_core.errors import ConfigError, StoreError
from tests.support.object_stores import (
    BUCKET,
    SECRET_KEY,
    ObjectStoreServer,
    environment_of,
    object_store,
)
from tests.support.store_proxy import Fault, Kind, StoreProxy, store_proxy

ALWAYS = 1_000_000
TURNS = 2
"""Races of a test; SeaweedFS takes two seconds for each."""


@pytest.fixture
def store(proxy: StoreProxy, url: str) -> Store:
    return Store(url)


@pytest.fixture
def moto_store(moto_proxy: StoreProxy, url: str) -> Store:
    return Store(url)


def random_file(path: Path, num_bytes: int) -> bytes:
    body = np.random.default_rng(0).bytes(num_bytes)
    path.write_bytes(body)
    return body


def test_store__reads_what_it_writes(store: Store, tmp_path: Path) -> None:
    body = random_file(tmp_path / "large", 2 * PART_BYTES + 5)

    etag = store.put("a/small", b"small", sha256="ab" * 32)
    store.put("a/large", tmp_path / "large", sha256="cd" * 32)
    store.download("a/large", tmp_path / "got")

    assert store.get("a/small") == (b"small", etag)
    assert (tmp_path / "got").read_bytes() == body
    found = store.head("a/large")
    assert found is not None
    assert (found.bytes, found.sha256) == (len(body), "cd" * 32)
    assert [one.name for one in store.list("a")] == ["a/large", "a/small"]
    folders, objects = store.list_folder("")
    assert (folders, objects) == (["a"], [])
    assert all(is_same_version(one.etag, etag) == (one.bytes == 5) for one in store.list("a"))
    small = store.list_folder("a")[1][1]
    assert store.get_range("a/small", 1, 3, small.etag) == b"ma", "also with a list's ETag"


def test_store__missing_objects(store: Store, tmp_path: Path) -> None:
    assert store.get("none") is None
    assert store.head("none") is None
    assert store.get_if_changed("none", '"etag"\n') is None
    assert store.replace("none", b"", store.put("other", b"")) is None
    assert [*store.list("none")] == []
    store.delete(["none", "neither"])
    with pytest.raises(FileNotFoundError):
        store.download("none", tmp_path / "got")


def test_store__conditions(store: Store) -> None:
    first = store.create("x", b"1")
    assert first is not None

    assert store.create("x", b"2") is None
    assert store.get_if_changed("x", first) is UNCHANGED
    second = store.replace("x", b"3", first)
    assert second is not None
    assert store.replace("x", b"4", first) is None
    assert store.get_if_changed("x", first) == (b"3", second)


def test_store__copies_and_deletes(store: Store) -> None:
    store.put("a", b"1")

    store.copy("a", "b")
    store.delete(["a"])

    assert store.get("a") is None
    assert store.get("b") is not None


def test_metadata__has_a_name_that_azure_takes() -> None:
    assert SHA256.isidentifier()
    assert "_" not in SHA256, "servers before S3 drop headers with an underscore"


def test_is_same_version__of_a_list_and_an_object() -> None:
    assert is_same_version('"abc"\n17', '"abc"\n'), "Google's list has no version"
    assert is_same_version('"0x1"\n', "0x1\n"), "Azure's list has no quotes"
    assert not is_same_version('"abc"\n17', '"abd"\n17')


def raced(attempt: Callable[[int], str | None]) -> int:
    """Return how many of eight threads that begin at once succeed."""
    barrier = threading.Barrier(8)

    def run(number: int) -> bool:
        barrier.wait()
        return attempt(number) is not None

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(run, range(8)))


def test_create__one_of_eight_threads_wins(
    store: Store, store_server: ObjectStoreServer, proxy: StoreProxy
) -> None:
    # moto looks whether an object exists and writes it in two steps, each request in a thread.
    proxy.one_at_a_time = store_server.name == "moto"
    for turn in range(TURNS):
        name = f"race-{turn}"
        assert raced(lambda number, name=name: store.create(name, str(number).encode())) == 1


def test_replace__one_of_eight_threads_wins(
    store: Store, store_server: ObjectStoreServer, proxy: StoreProxy
) -> None:
    # moto looks whether an object exists and writes it in two steps, each request in a thread.
    proxy.one_at_a_time = store_server.name == "moto"
    for turn in range(TURNS):
        name = f"race-{turn}"
        etag = store.put(name, b"before")
        won = raced(
            lambda number, name=name, etag=etag: store.replace(name, str(number).encode(), etag)
        )
        assert won == 1


def test_probe__accepts_all_servers(store: Store) -> None:
    store.probe()

    assert [*store.list("")] == []


@pytest.mark.parametrize("method", ["PUT", ""])
def test_probe__lost_response(store: Store, proxy: StoreProxy, method: str) -> None:
    lost = proxy.fail(Fault("lost", method))

    store.probe()

    assert lost.hits == 1


def test_probe__rejects_a_store_that_ignores_conditions(
    moto_store: Store, moto_proxy: StoreProxy
) -> None:
    # SeaweedFS checks that signed headers are there, so a proxy cannot remove them.
    moto_proxy.fail(Fault("without_conditions", "PUT", times=ALWAYS))

    with pytest.raises(ConfigError, match=r"does not honour If-None-Match\.\n.*\n  Fix:"):
        moto_store.probe()


@pytest.mark.slow
def test_probe__rejects_a_store_that_ignores_generations(
    google_server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_proxy("127.0.0.1", google_server.port) as proxy:
        for name, value in environment_of(proxy.address, "gs").items():
            monkeypatch.setenv(name, value)
        proxy.fail(Fault("without_conditions", "PUT", times=ALWAYS))

        with pytest.raises(ConfigError, match="does not honour If-None-Match"):
            Store(f"gs://{BUCKET}/runs/ignored").probe()


def test_probe__rejects_a_store_that_ignores_if_match(
    moto_store: Store, moto_proxy: StoreProxy
) -> None:
    moto_proxy.fail(Fault("without_if_match", "PUT", times=ALWAYS))

    with pytest.raises(ConfigError, match="does not honour If-Match"):
        moto_store.probe()


def test_download__cut_answers_are_continued(
    store: Store, proxy: StoreProxy, tmp_path: Path
) -> None:
    body = random_file(tmp_path / "large", PART_BYTES)
    store.put("large", tmp_path / "large")
    proxy.forget()
    cut = proxy.fail(Fault("cut", "GET", times=3, after_bytes=PART_BYTES // 3))
    seen: list[bytes] = []

    store.download("large", tmp_path / "got", seen.append)

    assert (tmp_path / "got").read_bytes() == body
    assert b"".join(seen) == body
    assert cut.hits == 3
    assert proxy.counts()["GET"] == 4


@pytest.mark.parametrize("num_bytes", [7, PART_BYTES])
def test_download__object_replaced_meanwhile(
    store: Store, proxy: StoreProxy, tmp_path: Path, num_bytes: int
) -> None:
    random_file(tmp_path / "large", PART_BYTES)
    store.put("large", tmp_path / "large")
    proxy.fail(Fault("cut", "GET", after_bytes=PART_BYTES // 2))

    def replace(data: bytes) -> None:
        if data:
            store.put("large", bytes(num_bytes))

    with pytest.raises(StoreError, match="was replaced while it was read"):
        store.download("large", tmp_path / "got", replace)


def test_get__survives_cut_and_busy_answers(store: Store, proxy: StoreProxy) -> None:
    store.put("x", b"contents")
    cut = proxy.fail(Fault("cut", "GET", times=2, after_bytes=3))
    busy = proxy.fail(Fault("busy", "GET", times=2))

    found = store.get("x")

    assert (cut.hits, busy.hits) == (2, 2)
    assert found is not None
    assert found[0] == b"contents"


def test_put__large_upload_survives_busy_and_lost_answers(
    store: Store, proxy: StoreProxy, tmp_path: Path
) -> None:
    body = random_file(tmp_path / "large", 2 * PART_BYTES + 5)
    faults = [Fault("busy", "PUT"), Fault("lost", "PUT"), Fault("busy", "POST")]
    for fault in faults:
        proxy.fail(fault)
    sent: list[int] = []

    store.put("large", tmp_path / "large", sent=sent.append)
    store.download("large", tmp_path / "got")

    assert [fault.hits for fault in faults] == [1, 1, 1]
    assert (tmp_path / "got").read_bytes() == body
    assert sum(sent) == len(body)


def test_get__survives_an_answer_that_never_comes(
    store: Store, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("x", b"contents")
    hang = proxy.fail(Fault("hang", "GET"))
    monkeypatch.setenv(PATIENCE, "5")

    assert Store(store.url).get("x") is not None
    assert hang.hits == 1


def test_create__lost_response_leaves_the_object(store: Store, proxy: StoreProxy) -> None:
    lost = proxy.fail(Fault("lost", "PUT"))

    written = store.create("x", b"own")

    # Repeated, and refused: whoever calls it looks whether the object is its own.
    assert (written, lost.hits) == (None, 1)
    found = store.get("x")
    assert found is not None
    assert found[0] == b"own"


@pytest.mark.parametrize("kind", ["busy", "lost", "hang"])
def test_store__gives_up_after_its_patience(
    store: Store, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setenv(PATIENCE, "1")
    proxy.fail(Fault(kind, times=ALWAYS))

    with pytest.raises(StoreError, match=r"\n  Cause: .*\n  Fix:   run the same command again"):
        Store(store.url).get("x")


def test_store__refused_credentials(
    store_server: ObjectStoreServer, proxy: StoreProxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store_server.name in ("moto", "google"):
        pytest.skip("moto accepts all credentials")
    is_azure = store_server.scheme == "az"
    variable = "AZURE_STORAGE_ACCOUNT_KEY" if is_azure else "AWS_SECRET_ACCESS_KEY"
    wrong = "d3IwbmctMSE="
    monkeypatch.setenv(variable, wrong)

    with pytest.raises(StoreError, match="refuses the credentials") as raised:
        Store(url).get("x")

    assert wrong not in str(raised.value)
    assert "AKIA" not in str(raised.value)


def test_store__missing_bucket(moto_proxy: StoreProxy) -> None:
    store = Store("s3://other-bucket/runs/demo")

    check_missing(store, "the bucket does not exist")


@pytest.mark.slow
def test_store__missing_container(
    azurite_server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in azurite_server.environment.items():
        monkeypatch.setenv(name, value)

    check_missing(Store("az://other-bucket/runs/demo"), "the container does not exist")


def check_missing(store: Store, message: str) -> None:
    for request in (
        lambda: store.put("x", b""),
        lambda: store.get("x"),
        lambda: [*store.list("")],
        lambda: store.list_folder(""),
    ):
        with pytest.raises(StoreError, match=message):
            request()


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "0"])
def test_patience__not_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(PATIENCE, text)

    with pytest.raises(ConfigError, match=PATIENCE):
        Store("memory:///x")


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_store__without_server(tmp_path: Path, scheme: str) -> None:
    store = Store(f"{scheme}://{tmp_path}/store/run")

    store.probe()
    etag = store.create("a/x", b"1")
    assert etag is not None

    assert store.create("a/x", b"2") is None
    assert store.replace("a/x", b"3", "stale\n") is None
    assert store.replace("a/x", b"3", etag) is not None


@pytest.mark.slow
def test_store__server_is_killed_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_store("seaweedfs", tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(PATIENCE, "60")
        store = Store(f"s3://{BUCKET}/runs/demo")
        etags = [store.put(f"x{number}", str(number).encode()) for number in range(30)]
        server.kill()
        back = threading.Timer(1.0, server.start)
        back.start()

        # The requests wait for the server.
        found = [store.get(f"x{number}") for number in range(30)]

        back.join()
        assert found == [(str(number).encode(), etag) for number, etag in enumerate(etags)]


def test_store__errors_hide_the_secret(
    store: Store, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "1")
    proxy.fail(Fault("busy", times=ALWAYS))

    with pytest.raises(StoreError) as raised:
        Store(store.url).put("x", b"")

    assert SECRET_KEY not in repr(raised.value)
    assert SECRET_KEY not in repr(store)


def test_store__of_files_has_one_lock_file(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/demo")
    for _ in range(3):
        store.probe()

    assert [path.name for path in (tmp_path / "demo").iterdir()] == [".objects.lock"]
