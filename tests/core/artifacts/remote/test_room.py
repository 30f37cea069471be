"""Eviction from mirrors with little room: only what can be fetched again, and is not in use."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcluster_core.artifacts.remote.mirror import Mirror
from deepcluster_core.artifacts.remote.opening import open_mirror
from deepcluster_core.artifacts.remote.room import Room
from deepcluster_core.errors import ArtifactError, NoRoomError
from tests.support.small_disk import small_disk
from tests.support.store_proxy import StoreProxy
from tests.support.stored_artifacts import LARGE, make_artifact, write_artifact


@pytest.fixture
def own(moto_proxy: StoreProxy, url: str, tmp_path: Path) -> Mirror:
    """Return a mirror with all the room it needs, which makes artifacts for others."""
    return open_mirror(url, tmp_path / "here", None)


def small_mirror(url: str, place: Path, limit: int | None, *, grace_s: float = 0.0) -> Mirror:
    """Return a mirror whose files may be evicted as soon as they were used."""
    root = place / "remote/0123456789abcdef/demo"
    root.mkdir(parents=True)
    return Mirror(url, root, Room(place / "remote", limit, grace_s=grace_s))


def names_here(mirror: Mirror, kind: str) -> set[str]:
    return {path.parent.name for path in (mirror.root / kind).glob("*/data")}


def fill(own: Mirror, count: int) -> None:
    for epoch in range(count):
        make_artifact(own, f"features/epoch={epoch:04d}", {"data": bytes([epoch]) * LARGE})


def test_room__longest_unused_goes_first(own: Mirror, tmp_path: Path) -> None:
    fill(own, 4)
    mirror = small_mirror(own.url, tmp_path / "small", int(3.5 * LARGE))
    folders = [mirror.root / f"features/epoch={epoch:04d}" for epoch in range(4)]
    for folder in folders:
        mirror.refresh(folder)
    now = time.time_ns()
    for age, folder in zip((100, 300, 200), folders[:3], strict=True):
        mirror.fetch(folder)
        _use_at(folder / "data", now - age * 10**9)

    mirror.fetch(folders[3])

    assert names_here(mirror, "features") == {"epoch=0000", "epoch=0002", "epoch=0003"}
    mirror.fetch(folders[1])  # comes again
    assert (folders[1] / "data").read_bytes() == b"\1" * LARGE


def _use_at(path: Path, time_ns: int) -> None:
    """Let a file look as if it was last used at a time."""
    os.utime(path, ns=(time_ns, path.stat().st_mtime_ns))


def test_room__keeps_what_is_not_on_the_store(own: Mirror, tmp_path: Path) -> None:
    fill(own, 1)
    mirror = small_mirror(own.url, tmp_path / "small", int(1.5 * LARGE))
    unpublished = mirror.root / "labels/epoch=0000"
    write_artifact(unpublished, {"data": b"u" * LARGE})
    folder = mirror.root / "features/epoch=0000"
    mirror.refresh(folder)

    with pytest.raises(ArtifactError, match=r"no room for 1.05 MB .*\n.*\n  Fix: .*scratch_bytes"):
        mirror.fetch(folder)

    assert (unpublished / "data").exists()


def test_room__keeps_what_is_in_use(own: Mirror, tmp_path: Path) -> None:
    fill(own, 2)
    mirror = small_mirror(own.url, tmp_path / "small", int(1.5 * LARGE))
    one, other = (mirror.root / f"features/epoch={epoch:04d}" for epoch in range(2))
    mirror.refresh(one)
    mirror.refresh(other)
    mirror.fetch(one)

    with mirror.use(one), pytest.raises(ArtifactError, match="no room"):
        mirror.fetch(other)
    mirror.fetch(other)

    assert names_here(mirror, "features") == {"epoch=0001"}


def test_room__waits_for_what_was_just_used(own: Mirror, tmp_path: Path) -> None:
    fill(own, 2)
    mirror = small_mirror(own.url, tmp_path / "small", int(1.5 * LARGE), grace_s=1.0)
    one, other = (mirror.root / f"features/epoch={epoch:04d}" for epoch in range(2))
    mirror.refresh(one)
    mirror.refresh(other)
    mirror.fetch(one)
    start = time.monotonic()

    mirror.fetch(other)

    assert time.monotonic() - start > 0.8  # the grace of one second, less the clocks' steps


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system with room for three large files, and a little more."""
    with small_disk(tmp_path / "disk", kib=3600) as folder:
        yield folder


def fetched(own: Mirror, mirror: Mirror, count: int) -> list[Path]:
    """Make artifacts, and fetch them in order; return their folders in the mirror."""
    fill(own, count)
    folders = [mirror.root / f"features/epoch={epoch:04d}" for epoch in range(count)]
    for folder in folders:
        mirror.refresh(folder)
        mirror.fetch(folder)
    return folders


def test_fetch__evicts_on_a_full_disk(own: Mirror, disk: Path) -> None:
    mirror = small_mirror(own.url, disk, None)

    folders = fetched(own, mirror, 5)

    assert len(names_here(mirror, "features")) == 3
    for epoch, folder in enumerate(folders):
        mirror.fetch(folder)
        assert (folder / "data").read_bytes() == bytes([epoch]) * LARGE


def test_fetch__full_disk_of_others(own: Mirror, disk: Path) -> None:
    (disk / "of others").write_bytes(b"x" * (2 * LARGE))
    mirror = small_mirror(own.url, disk, 100 * LARGE)
    one, other = fetched(own, mirror, 1)[0], mirror.root / "features/epoch=0001"
    make_artifact(own, "features/epoch=0001", {"data": b"1" * LARGE})
    mirror.refresh(other)

    with mirror.use(one), pytest.raises(NoRoomError, match=r"1.05 MB \(.* free; the disk is full"):
        mirror.fetch(other)

    assert not list(other.glob("*.part"))
    mirror.fetch(other)


def test_repeat_on_full_disk__goes_on_in_the_room_of_what_the_store_has(
    own: Mirror, disk: Path
) -> None:
    mirror = small_mirror(own.url, disk, None)
    folders = fetched(own, mirror, 3)
    draft = mirror.root / "labels/epoch=0000"
    calls: list[int] = []

    def write() -> None:
        calls.append(1)
        write_artifact(draft, {"data": b"d" * (2 * LARGE)})

    with mirror.use(folders[0]):
        mirror.repeat_on_full_disk(draft, write)

    assert len(calls) == 2
    assert (draft / "data").read_bytes() == b"d" * (2 * LARGE)
    assert names_here(mirror, "features") == {"epoch=0000"}, "it is in use"


def test_repeat_on_full_disk__says_what_helps_if_nothing_can_go(own: Mirror, disk: Path) -> None:
    mirror = small_mirror(own.url, disk, None)
    fetched(own, mirror, 2)
    unpublished = mirror.root / "labels/epoch=0000"
    write_artifact(unpublished, {"data": b"u" * LARGE})
    draft = mirror.root / "labels/epoch=0001"

    with pytest.raises(NoRoomError) as error:
        mirror.repeat_on_full_disk(
            draft, lambda: write_artifact(draft, {"data": b"d" * (3 * LARGE)})
        )

    said = str(error.value)
    assert said.startswith(f"{draft}: the disk is full: ")
    assert "bytes of this artifact are written" in said
    assert "Fix: make room on that disk; the same command then continues." in said
    assert "compute.scratch" in said
    assert (unpublished / "data").read_bytes() == b"u" * LARGE, "the store does not have it"
    assert names_here(mirror, "features") == set()
