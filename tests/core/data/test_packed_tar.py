"""Compressed tar files as sources."""

import gc
import io
import tarfile
import tempfile
from pathlib import Path

import pytest

from deepcluster_core.data.sources import open_source
from tests.support.sources import error_of, images, labels_of, paths, put


def write_tar(path: Path, *members: tuple[str, bytes]) -> Path:
    """Write a tar file, compressed if its name ends so."""
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as archive:
        for name, contents in members:
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return path


SAMPLES = [
    *(("b.jpg", b"first"), ("b.cls", b"cat")),
    *(("a.jpg", b"second"), ("a.json", b'{"label": "dog"}')),
]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files, which is empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("name", ["0.tar.gz", "0.tgz", "0.TAR.GZ"])
def test_images__of_a_compressed_file(tmp_path: Path, name: str) -> None:
    file = write_tar(tmp_path / name, *SAMPLES)

    found = images(file)

    assert [image.path for image in found] == [f"{name}/b.jpg", f"{name}/a.jpg"]
    assert [image.label for image in found] == ["cat", "dog"]
    assert [image.read() for image in reversed(found)] == [b"second", b"first"], "in any order"


def test_images__of_a_folder_equal_those_of_plain_files(tmp_path: Path) -> None:
    for number in range(3):
        for ending in ("tar", "tar.gz"):
            folder = tmp_path / ending
            folder.mkdir(exist_ok=True)
            write_tar(folder / f"{number}.{ending}", *SAMPLES)

    packed, plain = images(tmp_path / "tar.gz"), images(tmp_path / "tar")

    assert [image.path.replace(".tar.gz", ".tar") for image in packed] == [i.path for i in plain]
    assert [image.read() for image in packed] == [image.read() for image in plain]
    assert open_source(tmp_path / "tar.gz").count() is None


def test_images__files_of_one_class(tmp_path: Path) -> None:
    for name in ("n01440764", "n01443537"):
        write_tar(tmp_path / f"{name}.tar.gz", (f"{name}_1.JPEG", b"x"))

    assert labels_of(tmp_path) == ["n01440764", "n01443537"]


def test_images__nothing_stays_in_the_folder_for_temporary_files(
    tmp_path: Path, temporary: Path
) -> None:
    file = write_tar(tmp_path / "0.tar.gz", *SAMPLES)
    found = images(file)

    assert len(list(temporary.iterdir())) == 1
    del found
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_kind__a_compressed_file_beside_what_was_unpacked_from_it(tmp_path: Path) -> None:
    put(tmp_path, "a/cat/1.png", "b/readme.md")
    write_tar(tmp_path / "a/0.tar.gz", *SAMPLES)
    write_tar(tmp_path / "b/0.tar.gz", *SAMPLES)
    write_tar(tmp_path / "b/0.tar", *SAMPLES)

    assert paths(tmp_path / "a") == ["cat/1.png"]
    assert paths(tmp_path / "b") == ["0.tar/b.jpg", "0.tar/a.jpg"]


@pytest.mark.parametrize("cut", [10, 40, 0])
def test_images__damaged_files(tmp_path: Path, temporary: Path, cut: int) -> None:
    file = write_tar(tmp_path / "0.tar.gz", *SAMPLES)
    file.write_bytes(file.read_bytes()[:-cut] if cut else b"no gzip file")

    assert f"{file}: cannot be unpacked" in error_of(file)
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_images__label_key_names_the_key_in_json(tmp_path: Path) -> None:
    file = write_tar(
        tmp_path / "0.tar",
        *(("a.jpg", b"x"), ("a.json", b'{"label": 1, "species": "fox"}'), ("a.cls", b"2")),
        *(("b.jpg", b"x"), ("b.json", b'{"label": 1, "about": {"species": "owl"}}')),
        *(("c.jpg", b"x"), ("c.json", b'{"label": 1}')),
    )

    named = [image.label for image in open_source(file, label_key="species").images()]

    assert named == ["fox", "owl", None]
    assert labels_of(file) == ["2", "1", "1"]
