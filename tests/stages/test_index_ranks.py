"""Several ranks index the same bytes as one, whatever the source, and go on for each other."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepcluster_core.artifacts import pixel_parts
from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.data.decode import decode
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.data.sources.folder import FolderSource
from deepcluster_core.errors import ConfigError, DeepClusterError, SourceError
from deepcluster_core.ranks import ALONE, Ranks
from stages import index_units, packed_images
from stages.index import DatasetConfig, index
from tests.support.gloo import on_processes
from tests.support.ranks import on_ranks
from tests.support.stored_images import dataset, indexed, picture, write_sources, write_tar

CONTEXT = Context(seed=1, workers=2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_sources(tmp_path_factory.mktemp("sources"))
    for number in range(5):
        write_tar(root / "texts" / f"{number}.tar", texts(number))
    for number in range(40):
        path = root / "pictures" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(number) if number % 7 else b"no picture")
    return root


def texts(shard: int) -> dict[str, bytes]:
    """Return pictures with texts: names of classes, no texts, or texts that look like captions."""
    members: dict[str, bytes] = {}
    for place in range(6):
        members[f"{place}.png"] = picture(100 * shard + place)
        text = f"a picture, the only one of its kind: {place}" if shard > 2 else "ab"[place % 2]
        if shard != 1:
            members[f"{place}.txt"] = text.encode()
        if shard == 3:
            members[f"{place}.md"] = b"left out"
    return members


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file of pixels hold two batches of four images, and a block five images."""
    monkeypatch.setattr(pixel_parts, "BATCH_ROWS", 4)
    monkeypatch.setattr(pixel_parts, "PART_BYTES", 6000)
    monkeypatch.setattr(packed_images, "READ_AT_ONCE", 2)
    monkeypatch.setattr(index_units, "BLOCK_IMAGES", 5)


def indexed_by(size: int, section: DatasetConfig, out: Path, **context: Any) -> Manifest:  # noqa: ANN401
    """Index a source on ranks; return the manifest."""
    fingerprint = section.open_source().fingerprint()

    def work(ranks: Ranks) -> None:
        settings = replace(CONTEXT, ranks=ranks, **context)
        index.run(dataset=section, source=fingerprint, out=out, context=settings)

    on_ranks(size, work)
    return read_manifest(out)


def check_same(found: Manifest, expected: Manifest) -> None:
    hashes = [{n: record.sha256 for n, record in m.files.items()} for m in (found, expected)]
    assert hashes[0] == hashes[1]
    assert (found.key, found.digest) == (expected.key, expected.digest)
    assert (found.rows, found.facts) == (expected.rows, expected.facts)


SOURCES: dict[str, dict[str, Any]] = {
    "shards": {},
    "packed": {},
    "classes": {},
    "texts": {},
    "rows": {},
    "folder": {},
    "list.csv": {},
    "pictures": {"encoding": "raw", "channels": 1},
    "pictures ": {"encoding": "none"},
    "pictures  ": {"subset": 17},
    "shards ": {"subset": 50},
    "shards  ": {"encoding": "grey", "grey_weights": [20000, 40000, 5536]},
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("size", [2, 3])
def test_index__ranks_write_the_bytes_of_one(
    sources: Path, tmp_path: Path, name: str, size: int
) -> None:
    section = dataset(sources / name.strip(), **SOURCES[name])
    alone = indexed_by(1, section, tmp_path / "alone")

    together = indexed_by(size, section, tmp_path / "together")

    check_same(together, alone)
    assert together.rows > 0
    assert list((tmp_path / "together").glob("*.part")) == []


def test_index__a_shard_is_read_with_what_earlier_shards_say_of_its_texts(
    sources: Path, tmp_path: Path
) -> None:
    # Alone, the texts of the last two shards are captions, but in the first one they are classes.
    found = indexed_by(5, dataset(sources / "texts"), tmp_path / "images")

    assert found.facts["labelled"] == 24
    assert found.facts["notes"] == ["left out: 6 md"]


def test_index__percentiles_of_deep_pictures_are_those_of_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    for number in range(23):
        pixels_HW = np.random.default_rng(number).integers(0, 900 * (number + 1), (20, 20))
        Image.fromarray(pixels_HW.astype(np.uint16)).save(folder / f"{number:02d}.png")
    section = dataset(folder, channels=1, deep="percentile")
    alone = indexed_by(1, section, tmp_path / "alone")

    check_same(indexed_by(3, section, tmp_path / "together"), alone)
    assert "percentile" in str(alone.facts)


@pytest.mark.parametrize("pages", ["all", "max"])
def test_index__pages_of_stacks(tmp_path: Path, pages: str) -> None:
    folder = tmp_path / "stacks"
    folder.mkdir()
    for number in range(9):
        noise = np.random.default_rng(number).integers(0, 256, (1 + number % 4, 20, 20), np.uint8)
        first, *others = map(Image.fromarray, noise)
        first.save(folder / f"{number}.tif", save_all=True, append_images=others)
    section = dataset(folder, channels=1, pages=pages)
    alone = indexed_by(1, section, tmp_path / "alone")

    check_same(indexed_by(2, section, tmp_path / "together"), alone)
    assert alone.rows == (1 + 2 + 3 + 4 + 1 + 2 + 3 + 4 + 1 if pages == "all" else 9)


class Cut(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("name", ["shards", "rows", "pictures", "texts", "packed", "stacks"])
def test_index__goes_on_with_another_number_of_ranks(
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    before: int,
    after: int,
) -> None:
    section = dataset(sources / name)
    if name == "stacks":
        section = dataset(sources / "pictures", pages="all")
    expected = indexed_by(1, section, tmp_path / "whole")
    total = expected.rows + expected.facts["skipped"]
    out = tmp_path / "cut"

    def progress(done: int, _total: int | None) -> None:
        if done >= total - 5:
            raise Cut

    with pytest.raises(Cut):
        indexed_by(before, section, out, progress=progress)
    assert (out / "_saved.json").exists()
    num_decoded = 0

    def counted(*given: Any, **settings: Any) -> Any:  # noqa: ANN401  as decode
        nonlocal num_decoded
        num_decoded += 1
        return decode(*given, **settings)

    monkeypatch.setattr(packed_images, "decode", counted)

    check_same(indexed_by(after, section, out), expected)
    assert num_decoded < total - 5, "what was packed is not decoded again"
    assert [path.name for path in out.glob("*.part")] == []


def message_of(size: int, section: DatasetConfig, out: Path) -> str:
    with pytest.raises(DeepClusterError) as error:
        indexed_by(size, section, out)
    assert "Fix:" in str(error.value)
    assert not (out / "_manifest.json").exists()
    return str(error.value).replace(str(out), "OUT")


def write_bad_sources(root: Path) -> dict[str, tuple[type[Exception], DatasetConfig]]:
    """Return sources that are refused because of what is in the file of another rank."""
    for number in range(4):
        for name in ("cut", "kinds", "lost", "masks"):
            members = {f"{n}.png": picture(n) for n in range(6)}
            if name == "kinds":
                members |= {f"{n}.cls": b"ant" if number == 3 else b"1" for n in range(6)}
            if name == "lost" and number in (1, 3):
                members = dict.fromkeys(members, b"no picture")
            write_tar(root / name / f"{number}.tar", members)
    cut = root / "cut/1.tar"
    cut.write_bytes(cut.read_bytes()[:3000])
    return {
        "cut": (SourceError, dataset(root / "cut")),
        "kinds": (SourceError, dataset(root / "kinds")),
        "lost": (SourceError, dataset(root / "lost", max_skipped_fraction=0.2)),
        "masks": (ConfigError, dataset(root / "masks", image_key="jpg")),
    }


@pytest.mark.parametrize("name", ["cut", "kinds", "lost", "masks"])
def test_index__a_bad_file_of_any_rank_is_reported_as_by_one(tmp_path: Path, name: str) -> None:
    kind, section = write_bad_sources(tmp_path)[name]
    alone = message_of(1, section, tmp_path / "alone")

    assert message_of(2, section, tmp_path / "together") == alone
    with pytest.raises(kind):
        indexed_by(3, section, tmp_path / "again")


def test_index__ranks_that_see_different_files_are_reported(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = threading.local()
    images = FolderSource.images

    def differing(self: FolderSource) -> Iterator[SourceImage]:
        return islice(images(self), getattr(own, "num_images", None))

    monkeypatch.setattr(FolderSource, "images", differing)
    section = dataset(sources / "pictures", deep="range")

    def work(ranks: Ranks) -> None:
        if ranks.rank == 1:
            own.num_images = 33
        context = replace(CONTEXT, ranks=ranks)
        index.run(dataset=section, source="x", out=tmp_path / "images", context=context)

    with pytest.raises(SourceError, match=r"rank 1 finds 33 images, .* rank 0 finds 40 images"):
        on_ranks(2, work)
    assert not (tmp_path / "images/_manifest.json").exists()


def test_index__what_a_dead_rank_has_left_is_not_used(sources: Path, tmp_path: Path) -> None:
    section, out = dataset(sources / "shards"), tmp_path / "images"
    expected = indexed_by(1, section, tmp_path / "alone")

    def cut(_done: int, _total: int | None) -> None:
        raise Cut

    with pytest.raises(Cut):
        indexed_by(2, section, out, progress=cut)
    left = [*out.glob("unit-*.part")]
    for path in left:
        path.write_bytes(b"half of a file")

    check_same(indexed_by(1, section, out), expected)
    assert left
    assert [*out.glob("*.part")] == []


@pytest.mark.slow
def test_index__two_real_ranks_make_the_bytes_of_one(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    names = ("shards", "pictures")

    assert on_processes(2, partial(_index_both, sources, names), tmp_path / "two") == [None, None]

    _index_both(sources, names, ALONE, tmp_path)
    for name in names:
        check_same(read_manifest(tmp_path / "two" / name), read_manifest(tmp_path / name))


def _index_both(sources: Path, names: tuple[str, ...], ranks: Ranks, folder: Path) -> None:
    # A process of its own has not the small sizes of the fixture.
    pixel_parts.BATCH_ROWS = 4
    pixel_parts.PART_BYTES = 6000
    index_units.BLOCK_IMAGES = 5
    for name in names:
        indexed(dataset(sources / name), folder / name, ranks=ranks)
