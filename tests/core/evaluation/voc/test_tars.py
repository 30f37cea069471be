"""Pascal VOC in its tar files: the same as unpacked, and what is told of bad ones."""

import gzip
import lzma
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.dataset import Task, Voc
from tests.support.timeouts import WITHIN_S
from tests.support.voc_tree import CLASSES, write_voc, write_voc2012

TRAINVAL, TEST = "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"
SIZES = {"train": 4, "val": 4, "test": 4}
FIRST_OF_TEST = 8


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with VOC2007 and VOC2012. Shared: a test must not change it."""
    root = tmp_path_factory.mktemp("unpacked")
    write_voc(root, sizes=SIZES)
    write_voc2012(root, sizes={"train": 4, "val": 4})
    return root


def pack(path: Path, root: Path, wanted: Callable[[Path], bool], above: str = "") -> Path:
    """Write a tar file with the files below `root` that are wanted."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_dir() or wanted(file):
                name = f"{above}{file.relative_to(root)}"
                archive.add(file, name, recursive=False)
    return path


def is_of_test(file: Path) -> bool:
    return file.stem.endswith("test") or (file.stem.isdecimal() and int(file.stem) >= FIRST_OF_TEST)


def is_2007(file: Path) -> bool:
    return "VOC2007" in file.parts


def is_2012(file: Path) -> bool:
    return "VOC2012" in file.parts


def as_shipped(folder: Path, root: Path) -> Path:
    """Write the archives of 2007 and 2012 into a folder."""
    folder.mkdir()
    pack(folder / TRAINVAL, root, lambda file: is_2007(file) and not is_of_test(file))
    pack(folder / TEST, root, lambda file: is_2007(file) and is_of_test(file))
    pack(folder / "VOCtrainval_11-May-2012.tar", root, is_2012, "TrainVal/")
    return folder


def in_one(folder: Path, root: Path) -> Path:
    folder.mkdir()
    return pack(folder / "my own.tar", root, lambda _: True, "./")


def without_devkit(folder: Path, root: Path) -> Path:
    folder.mkdir()
    return pack(folder / "voc", root / "VOCdevkit", lambda _: True)


PACKINGS = {"as shipped": as_shipped, "in one": in_one, "without VOCdevkit": without_devkit}


def everything(data: Path) -> list[Any]:
    """Return all that a tree holds, by all that reads it."""
    voc, found = Voc(data), list[Any]()
    for subset in SIZES:
        marks = voc.marks(subset, voc.classes(subset))
        found += [marks.names, marks.mark_NC.tolist(), voc.listed(subset, "Main")]
    for name in found[0]:
        found += [voc.objects(name), voc.picture(name, channels=3).tobytes()]
    voc, names = Voc(data, 2012), Voc(data, 2012).listed("trainval", "Segmentation")
    return [*found, voc.mask_classes(), names, *(voc.mask(name).tobytes() for name in names)]


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS.keys())
def test_voc__is_the_same_packed_and_unpacked(
    unpacked: Path, tmp_path: Path, packing: Callable[[Path, Path], Path]
) -> None:
    data = packing(tmp_path / "data", unpacked)
    before = sorted(tmp_path.rglob("*"))

    assert everything(data) == everything(unpacked)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_voc__unpacked_trees_come_first(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked / "VOCdevkit/VOC2007", tmp_path / "VOCdevkit/VOC2007")
    (tmp_path / TRAINVAL).write_bytes(b"half of a download")
    assert Voc(tmp_path).classes("train", "test") == CLASSES


def test_voc__of_one_archive_has_what_it_has(unpacked: Path, tmp_path: Path) -> None:
    data = as_shipped(tmp_path / "data", unpacked)
    assert Voc(data / TRAINVAL).listed("trainval", "Main") == Voc(unpacked).listed(
        "trainval", "Main"
    )
    (data / TEST).unlink()
    with pytest.raises(
        SourceError, match=rf"data/{TRAINVAL}/ImageSets/Main/test\.txt: .*\n.*{TEST}"
    ):
        Voc(data).listed("test", "Main")


def test_voc__names_the_archive_that_it_speaks_of(unpacked: Path, tmp_path: Path) -> None:
    data = as_shipped(tmp_path / "data", unpacked)
    with tarfile.open(data / TEST, "a") as archive:
        archive.addfile(tarfile.TarInfo(f"VOCdevkit/VOC2007/JPEGImages/{FIRST_OF_TEST:06d}.jpg"))
    voc = Voc(data)

    with pytest.raises(SourceError, match=rf"data/{TEST}/JPEGImages/000008\.jpg: .*empty file"):
        voc.picture("000008", channels=3)
    with pytest.raises(
        SourceError, match=rf"data/\{{{TRAINVAL},{TEST}\}}/JPEGImages/9\.jpg: .*No such"
    ):
        voc.picture("9", channels=3)


def test_voc__the_last_file_of_a_name_counts(unpacked: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "voc.tar", unpacked, is_2007)
    later = tmp_path / "later.xml"
    later.write_text("<annotation/>")
    assert Voc(path).objects("000000")
    with tarfile.open(path, "a") as archive:
        archive.add(later, "VOCdevkit/VOC2007/Annotations/000000.xml")
    assert Voc(path).objects("000000") == ()


def test_voc__many_threads_read_from_one_archive(unpacked: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "voc.tar", unpacked, is_2012)
    voc, there = Voc(path, 2012), Voc(unpacked, 2012)
    names, together = (
        there.listed("trainval", "Segmentation") * 4,
        threading.Barrier(4, timeout=WITHIN_S),
    )

    def is_same(number: int) -> bool:
        if number < 4:
            together.wait()
        name = names[number]
        same = voc.picture(name, channels=3) == there.picture(name, channels=3)
        return bool(same.all()) and np.array_equal(voc.mask(name), there.mask(name))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_same, range(len(names))))


@pytest.mark.parametrize("task", ["Main", "Segmentation"])
def test_fingerprint__is_that_of_lists_and_archives(
    unpacked: Path, tmp_path: Path, task: Task
) -> None:
    def fingerprint(data: Path) -> str:
        return Voc(data, 2012).fingerprint_listed(("train",), task)

    path = pack(tmp_path / "voc.tar", unpacked, is_2012)
    moved = tmp_path / "elsewhere" / "voc.tar"
    moved.parent.mkdir()
    shutil.copy2(path, moved)
    first = fingerprint(path)
    assert fingerprint(moved) == first
    os.utime(moved, ns=(1, 1))
    assert fingerprint(moved) != first

    pack(moved, unpacked, lambda file: is_2012(file) and file.suffix != ".jpg")
    with pytest.raises(SourceError, match=r"elsewhere/voc\.tar/JPEGImages: 4 pictures .* missing"):
        fingerprint(moved)


BAD_MEMBERS = {
    "JPEGImages/000000.jpg": lambda voc: voc.picture("000000", channels=3),
    "SegmentationClass/000000.png": lambda voc: voc.mask("000000"),
    "Annotations/000000.xml": lambda voc: voc.objects("000000"),
    "ImageSets/Main/train.txt": lambda voc: voc.listed("train", "Main"),
}


@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_voc__bad_members_are_told_with_their_archive(
    unpacked: Path, tmp_path: Path, name: str
) -> None:
    path = pack(tmp_path / "voc.tar", unpacked, is_2012)
    (tmp_path / "bad").write_bytes(b"../")
    with tarfile.open(path, "a") as archive:
        archive.add(tmp_path / "bad", f"VOCdevkit/VOC2012/{name}")
    with pytest.raises(SourceError, match=rf"{path}/{name}[:,] "):
        BAD_MEMBERS[name](Voc(path, 2012))


def compressed(path: Path, compress: Callable[[bytes], bytes]) -> None:
    path.write_bytes(compress(path.read_bytes()))


BAD_TARS: dict[str, tuple[Callable[[Path], object], str]] = {
    "gzip": (
        lambda path: compressed(path, gzip.compress),
        "compressed tar files must be unpacked first",
    ),
    "xz": (
        lambda path: compressed(path, lzma.compress),
        "compressed tar files must be unpacked first",
    ),
    "half of it": (lambda path: os.truncate(path, path.stat().st_size // 2), "as a tar file"),
    "nothing": (lambda path: os.truncate(path, 0), r"cannot be read as a tar file \(empty file"),
    "a web page": (lambda path: path.write_text("<html>" * 200), "cannot be read as a tar file"),
    "another year": (
        lambda path: pack(path, path.parent / "unpacked", is_2012),
        r"holds no Pascal VOC 2007\.\n.*\n +Found: +VOCdevkit/VOC2012/.*\n +Fix: +put VOCt",
    ),
    "no member": (lambda path: tarfile.open(path, "w").close(), r"Found: +nothing in it"),
}


@pytest.mark.parametrize(("damage", "message"), BAD_TARS.values(), ids=BAD_TARS.keys())
def test_voc__bad_archives_are_told(
    unpacked: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    (tmp_path / "unpacked").symlink_to(unpacked)
    path = pack(tmp_path / TRAINVAL, unpacked, is_2007)
    damage(path)
    for data in (path, tmp_path):
        with pytest.raises(SourceError, match=message):
            Voc(data)


@pytest.fixture(scope="module")
def whole(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of an archive."""
    return pack(tmp_path_factory.mktemp("whole") / "voc.tar", unpacked, is_2007).read_bytes()


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), aligned=st.booleans())
def test_voc__archives_that_were_cut_anywhere_are_refused(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, share: float, aligned: bool
) -> None:
    size = len(whole.rstrip(b"\0")) + tarfile.BLOCKSIZE  # what follows are zeros
    cut = int(share * size)
    if aligned:  # as downloads break off
        cut -= cut % tarfile.BLOCKSIZE
    path = tmp_path_factory.getbasetemp() / "cut.tar"
    path.write_bytes(whole[:cut])
    with pytest.raises(SourceError, match=r"cut\.tar: cannot be read as a tar file"):
        Voc(path)


def test_voc__an_archive_that_is_cut_while_it_is_read(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "voc.tar"
    path.write_bytes(whole)
    voc = Voc(path)
    os.truncate(path, 2000)
    with pytest.raises(SourceError, match=r"000000\.jpg: the picture .*is cut off inside this"):
        voc.picture("000000", channels=3)
    path.unlink()
    with pytest.raises(SourceError, match=r"the picture cannot be read \(No such file or dir"):
        voc.picture("000000", channels=3)
