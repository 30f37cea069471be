"""Images of an object store: the same artifact as from a copy on this machine, whatever happens."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcluster_core.artifacts import pixel_parts
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.context import Context
from deepcluster_core.data.sources import downloads
from deepcluster_core.data.sources.downloads import Scratch
from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.ranks import Ranks
from stages.index import index
from tests.support.object_stores import BUCKET, SECRET_KEY, ObjectStoreServer, object_store
from tests.support.ranks import on_ranks
from tests.support.store_proxy import Fault, StoreProxy, store_proxy
from tests.support.stored_images import (
    NUM_SHARDS,
    dataset,
    indexed,
    picture,
    put,
    reached,
    upload,
    write_sources,
)

URL = f"s3://{BUCKET}/data"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Iterator[ObjectStoreServer]:
    with object_store("moto", tmp_path_factory.mktemp("moto")) as server:
        upload(server, sources)
        yield server


@pytest.fixture
def proxy(server: ObjectStoreServer) -> Iterator[StoreProxy]:
    with store_proxy("127.0.0.1", server.port) as proxy:
        # Long enough for faults that end, and short for those that do not.
        with reached(proxy.address, DEEPCLUSTER_STORE_PATIENCE_S="1"):
            yield proxy


SOURCES = {
    "folder": "folder",
    "shards": "shards",
    "shards/{00000..00005}.tar": "shards",
    "packed": "packed",
    "classes": "classes",
    "rows": "rows",
    "list.csv": "list.csv",
    "list.txt": "list.txt",
    "folder/ant/1.png": "folder/ant/1.png",
}


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(("stored", "local"), SOURCES.items())
def test_index__has_the_bytes_of_a_local_copy(
    sources: Path, tmp_path: Path, stored: str, local: str
) -> None:
    scratch = tmp_path / "scratch"
    expected = indexed(dataset(sources / local), tmp_path / "local")

    found = indexed(dataset(f"{URL}/{stored}"), tmp_path / "stored", scratch=scratch)

    assert found.digest == expected.digest
    assert found.rows == expected.rows > 0
    assert found.facts.get("notes") == expected.facts.get("notes")
    assert not scratch.exists() or list(scratch.iterdir()) == [], "downloads are deleted"


def test_index__a_local_list_names_files_of_a_store(
    proxy: StoreProxy, sources: Path, tmp_path: Path
) -> None:
    listed = [f"{URL}/folder/ant/1.png", str(sources / "folder/bee/1.png"), f"{URL}/none.png"]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    (tmp_path / "local.txt").write_text(f"{sources}/folder/ant/1.png\n{sources}/folder/bee/1.png")
    expected = indexed(dataset(tmp_path / "local.txt"), tmp_path / "local")

    found = indexed(dataset(tmp_path / "list.txt"), tmp_path / "stored")

    assert found.rows == expected.rows == 2
    assert found.facts["skipped"] == 1
    # Pixels in the order of the paths: `/…` comes before `s3://…`.
    assert proxy.counts_of("none.png")["GET"] == 0


@pytest.mark.usefixtures("proxy")
def test_fingerprint__changes_with_an_object_alone(server: ObjectStoreServer) -> None:
    for name in ("a/1.png", "a/2.png"):
        put(server, f"changing/{name}", picture(1))
    section = dataset(f"s3://{BUCKET}/changing")
    before = section.open_source().fingerprint()
    assert section.open_source().fingerprint() == before

    put(server, "changing/a/2.png", picture(2))

    assert section.open_source().fingerprint() != before


def test_open__reads_no_image(proxy: StoreProxy) -> None:
    for name in ("folder", "shards", "list.csv"):
        source = dataset(f"{URL}/{name}").open_source()
        source.fingerprint()
        source.count()

    assert proxy.counts_of(".tar").total() == 0
    assert proxy.counts_of(".png")["GET"] == 0
    assert proxy.counts()["GET"] == 1, "the list itself"


def test_index__results_of_this_program_are_left_out(
    proxy: StoreProxy, server: ObjectStoreServer, tmp_path: Path
) -> None:
    put(server, "mixed/cat/1.png", picture(1))
    manifest = {"format": 1, "stage": "filters", "version": 1}
    put(server, "mixed/old/filters/_manifest.json", json.dumps(manifest).encode())
    put(server, "mixed/old/filters/filters.png", picture(2))

    found = indexed(dataset(f"s3://{BUCKET}/mixed"), tmp_path / "images")

    assert found.rows == 1
    assert found.facts["notes"] == [
        "left out: 1 folder of this program's own results: old/filters/ (artifact)"
    ]
    assert proxy.counts_of("filters.png")["GET"] == 0


REFUSED = {
    "s3://no-such-bucket/x": "the bucket does not exist",
    f"{URL}/empty": "found nothing",
    f"{URL}/shards/{{00000..00007}}.tar": "shards/00006.tar: does not exist, and 1 others",
    f"{URL}/gone.tar": "holds classes/, folder/, list.csv, …",
    f"{URL}": "could be of kind",
    f"{URL}/{{list.csv,list.txt}}": "several tar files or several Parquet files only",
}


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(("url", "said"), REFUSED.items())
def test_open__what_cannot_be_used_is_named(server: ObjectStoreServer, url: str, said: str) -> None:
    if url == URL:
        put(server, "two/a.tar", b"")
        put(server, "two/a.png", b"")
        url = f"s3://{BUCKET}/two"
    with pytest.raises(SourceError, match=r"Fix:") as error:
        dataset(url).open_source()

    assert said in str(error.value)


@pytest.mark.usefixtures("proxy")
def test_open__scenes_are_local() -> None:
    with pytest.raises(ConfigError, match="only from this machine"):
        dataset(f"{URL}/folder", kind="geotiff").open_source()


def test_index__busy_answers_and_cut_shards_are_repeated(
    proxy: StoreProxy, sources: Path, tmp_path: Path
) -> None:
    expected = indexed(dataset(sources / "shards"), tmp_path / "local")
    proxy.fail(Fault("busy", "GET", "00001.tar", times=3))
    proxy.fail(Fault("cut", "GET", "00002.tar", times=3, after_bytes=5000))
    proxy.fail(Fault("busy", "LIST", times=2))

    found = indexed(dataset(f"{URL}/shards"), tmp_path / "stored", scratch=tmp_path / "scratch")

    assert found.digest == expected.digest
    assert [fault.hits for fault in proxy.faults] == [3, 3, 2]


def test_index__a_shard_that_stays_cut_is_named(proxy: StoreProxy, tmp_path: Path) -> None:
    proxy.fail(Fault("cut", "GET", "00002.tar", times=10_000, after_bytes=5000))

    with pytest.raises(SourceError, match=f"{URL}/shards/00002.tar: ") as error:
        indexed(dataset(f"{URL}/shards"), tmp_path / "stored", scratch=tmp_path / "scratch")

    assert SECRET_KEY not in str(error.value)
    del error  # whose traceback refers to what is downloaded
    gc.collect()
    assert list((tmp_path / "scratch").iterdir()) == []


LAST = {"shards": "00004.tar", "rows": "train-00002.parquet", "pictures": "/35.png"}
FIRST = {"shards": "00000.tar", "rows": "train-00001.parquet", "pictures": "/00.png"}


@pytest.mark.parametrize("kind", LAST)
def test_index__goes_on_without_what_is_packed(
    proxy: StoreProxy,
    server: ObjectStoreServer,
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    # Files of pixels hold two batches of four images, so that many of them are full.
    monkeypatch.setattr(pixel_parts, "BATCH_ROWS", 4)
    monkeypatch.setattr(pixel_parts, "PART_BYTES", 6000)
    monkeypatch.setattr("stages.packed_images.READ_AT_ONCE", 1)
    local = sources / kind
    if kind == "pictures":
        local = tmp_path / kind
        local.mkdir()
        for number in range(40):
            (local / f"{number:02d}.png").write_bytes(picture(number))
        upload(server, local, f"data/{kind}")
    section = dataset(f"{URL}/{kind}")
    expected = indexed(dataset(local), tmp_path / "local", workers=1)
    section.open_source()  # reads the footers of the Parquet files
    proxy.fail(Fault("cut", "GET", LAST[kind], times=10_000, after_bytes=10))
    with pytest.raises(SourceError, match=LAST[kind]):
        indexed(section, tmp_path / "stored", scratch=tmp_path / "scratch", workers=1)
    assert not (tmp_path / "stored/_manifest.json").exists()
    proxy.forget()

    found = indexed(section, tmp_path / "stored", scratch=tmp_path / "scratch", workers=1)

    assert found.digest == expected.digest
    assert found.facts.get("notes") == expected.facts.get("notes")
    assert proxy.counts_of(LAST[kind])["GET"] > 0
    # Only the name of the first picture, which may show that a shard is a class.
    assert proxy.counts_of(FIRST[kind])["GET"] == (kind == "shards")
    assert list(tmp_path.glob("stored/*.part")) == []


@pytest.mark.usefixtures("proxy")
def test_index__keeps_the_limit_of_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    take = downloads.Downloads.take

    def watched(self: downloads.Downloads, number: int) -> downloads.Downloaded:
        nonlocal most
        taken = take(self, number)
        most = max(most, len([*tmp_path.glob("scratch/*/*.tar")]))
        return taken

    monkeypatch.setattr(downloads.Downloads, "take", watched)
    # Real shards have more images than are decoded ahead.
    monkeypatch.setattr("stages.packed_images.READ_AT_ONCE", 1)
    settings = {"scratch": tmp_path / "scratch", "workers": 1}

    indexed(dataset(f"{URL}/shards"), tmp_path / "a", **settings, scratch_bytes=1)
    with_small_limit, most = most, 0
    indexed(dataset(f"{URL}/shards"), tmp_path / "b", **settings)

    # The one that is read, the one before, whose images may still be decoded, and the next.
    assert with_small_limit <= 3
    assert 3 < most <= NUM_SHARDS


def test_index__each_rank_downloads_its_own_shards(
    proxy: StoreProxy, sources: Path, tmp_path: Path
) -> None:
    # Set, because otherwise the first images are looked at to decide it.
    section = dataset(f"{URL}/shards", deep="range")
    expected = indexed(dataset(sources / "shards", deep="range"), tmp_path / "local")
    fingerprint = section.open_source().fingerprint()
    scratch = tmp_path / "scratch"

    def work(ranks: Ranks) -> None:
        context = Context(seed=1, ranks=ranks, scratch=scratch, scratch_bytes=1, workers=1)
        index.run(dataset=section, source=fingerprint, out=tmp_path / "stored", context=context)

    on_ranks(2, work)

    assert read_manifest(tmp_path / "stored").digest == expected.digest
    # The first shard is also looked into, for whether it holds a class.
    downloads = [proxy.counts_of(f"{number:05d}.tar")["GET"] for number in range(1, NUM_SHARDS)]
    assert downloads == [1] * (NUM_SHARDS - 1)
    assert list(scratch.iterdir()) == []


def test_scratch__ranks_share_the_limit(tmp_path: Path) -> None:
    assert Scratch(tmp_path, 900).limit(tmp_path) == 900
    assert Scratch(tmp_path, 900, num_processes=3).limit(tmp_path) == 300


def test_scratch__deletes_folders_of_dead_processes_alone(
    proxy: StoreProxy, tmp_path: Path
) -> None:
    (tmp_path / "images-dead").mkdir()
    (tmp_path / "images-dead/000000-x.tar").write_bytes(b"x")
    (tmp_path / "of-somebody").mkdir()
    source = dataset(f"{URL}/shards").open_source(Scratch(tmp_path))
    images = source.images()
    first = next(images)
    (own,) = tmp_path.glob("images-*")

    other = dataset(f"{URL}/shards").open_source(Scratch(tmp_path)).images()
    next(other)

    assert own.exists()
    assert first.read() == next(iter(source.images())).read()
    assert {path.name for path in tmp_path.iterdir()} >= {own.name, "of-somebody"}
    assert not (tmp_path / "images-dead").exists()
    assert proxy.counts_of("00001.tar").total() == 0, "nothing is downloaded before it is needed"


def test_scratch__keeps_files_that_are_read_after_the_last_one_was_listed(
    proxy: StoreProxy, tmp_path: Path
) -> None:
    del proxy  # it only has to serve
    images = list(dataset(f"{URL}/shards").open_source(Scratch(tmp_path)).images())
    (own,) = tmp_path.glob("images-*")

    other = dataset(f"{URL}/shards").open_source(Scratch(tmp_path)).images()
    next(other)  # makes a folder, and deletes those of dead processes

    assert own.exists()
    assert all(image.read() for image in images)
    del images
    gc.collect()
    assert not own.exists(), "deleted with the last image"


@pytest.mark.slow
def test_index__denied_is_no_traceback(tmp_path: Path, sources: Path) -> None:
    with object_store("seaweedfs", tmp_path) as server:
        upload(server, sources / "classes", "data/classes")
        with reached(server.endpoint):
            found = indexed(dataset(f"{URL}/classes"), tmp_path / "images")
        wrong = SECRET_KEY[::-1]
        with (
            reached(server.endpoint, AWS_SECRET_ACCESS_KEY=wrong),
            pytest.raises(SourceError, match=r"403 Forbidden.*\n.*AWS_ACCESS_KEY_ID") as error,
        ):
            dataset(f"{URL}/classes").open_source()

    assert found.rows == 6
    assert wrong not in str(error.value)
