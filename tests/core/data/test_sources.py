import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepcluster_core.data.sources import Kind, open_source
from deepcluster_core.data.sources.base import displayed, read_file
from deepcluster_core.data.sources.folder import FolderSource
from deepcluster_core.errors import SourceError
from tests.support.sources import error_of, images, labels_of, paths, put, reason

NAMES = ["b/2.png", "a/10.JPG", "a/9.jpg", "a-c/x.npy", "a/sub/0.tiff", "Z/ü.webp", "b/1.png"]


# Folders


def test_folder__order_is_that_of_the_bytes_of_whole_paths(tmp_path: Path) -> None:
    put(tmp_path, *NAMES)

    assert paths(tmp_path) == sorted(NAMES, key=os.fsencode)


def test_folder__order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = put(tmp_path / "1", *NAMES), put(tmp_path / "2", *reversed(NAMES))
    assert paths(first) == paths(second)

    before, scandir = paths(first), os.scandir

    class Backwards:
        def __init__(self, folder: Path) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert paths(first) == before


def test_folder__reads_lazily(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/2.png")
    first, second = images(tmp_path)
    (tmp_path / "a/2.png").unlink()

    assert first.read() == b"a/1.png"
    assert reason(second) == "No such file or directory"


def test_folder__takes_image_names_only(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "notes.txt", "png", ".b.png", ".cache/c.png", "__MACOSX/d.png", "e.")
    put(tmp_path, "f.heic", "folder.png/g.png", ".DS_Store", "Thumbs.db")

    assert paths(tmp_path) == ["a.png", "f.heic", "folder.png/g.png"]


def test_folder__labels_are_first_level_folders(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "cat/young/2.png", "dog/1.png", "readme.txt")

    assert labels_of(tmp_path) == ["cat", "cat", "dog"]
    assert labels_of(tmp_path, labels="none") == [None] * 3


def test_folder__no_labels_when_an_image_lies_in_the_root(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "dog/1.png", "zebra.png")
    source = FolderSource(tmp_path, with_labels=True)

    assert [image.label for image in source.images()] == [None] * 3
    assert source.notes() == [
        "no true labels: 1 image lies beside the folders, so they are not classes"
    ]


def test_folder__without_folders_nothing_is_said_of_labels(tmp_path: Path) -> None:
    put(tmp_path, "cat.png", "dog.png")
    source = FolderSource(tmp_path, with_labels=True)

    assert [image.label for image in source.images()] == [None] * 2
    assert source.notes() == []


def test_folder__circular_links_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    (tmp_path / "a/itself.png").symlink_to(tmp_path / "a/itself.png")

    found = images(tmp_path)

    assert [image.path for image in found] == ["a/1.png", "a/itself.png", "b/2.png"]
    assert "symbolic links" in reason(found[1])
    assert "leads back to a folder above it" in caplog.text


def test_folder__links_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "x.png")
    root = put(tmp_path / "root", "a/1.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c.png").symlink_to(tmp_path / "elsewhere/x.png")
    (root / "d.png").symlink_to(tmp_path / "nowhere")

    found = images(root)

    assert [image.path for image in found] == ["a/1.png", "b/x.png", "c.png", "d.png"]
    assert found[1].read() == found[2].read() == b"x.png"
    assert reason(found[3]) == "No such file or directory"


def test_folder__odd_names_are_shown_as_text_and_read_by_their_own(tmp_path: Path) -> None:
    odd = [b"caf\xe9/\xff.png", "日本/\n.png".encode(), b"a b/'\".png", b"-/\\n.png"]
    put(tmp_path, *odd)

    found = images(tmp_path)

    assert [image.read() for image in found] == sorted(odd)
    shown = [image.path for image in found]
    assert shown == ["-/\\n.png", "a b/'\".png", r"caf\xe9/\xff.png", "日本/\n.png"]
    assert found[2].label == r"caf\xe9"
    assert pa.array(shown).to_pylist() == shown  # valid for Parquet


def test_folder__pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")

    assert reason(images(tmp_path)[0]) == "not a regular file"


def test_folder__unlisted_subfolder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    source, scandir = open_source(tmp_path), os.scandir

    def deny(folder: Path) -> Iterator[os.DirEntry[str]]:
        if folder.name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", deny)  # chmod does not stop root
    with pytest.raises(SourceError, match=r"/b: .* cannot be listed \(Permission denied\)"):
        list(source.images())


def test_folder__count(tmp_path: Path) -> None:
    assert open_source(put(tmp_path, *NAMES)).count() == len(NAMES)


# Fingerprints, of every kind


def text_list(root: Path) -> Path:
    put(root, "a.png", "b.png")
    (root / "list.txt").write_text("a.png\nb.png\nmissing.png\n")
    return root / "list.txt"


def one_tar(path: Path, member: str) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo(member))


def one_parquet(path: Path, images: list[bytes]) -> None:
    pq.write_table(pa.table({"image": images}), path)


def tar_folder(root: Path) -> Path:
    root.mkdir()
    one_tar(root / "0.tar", "a.png")
    one_tar(root / "1.tar", "b.png")
    return root


def parquet_folder(root: Path) -> Path:
    root.mkdir()
    one_parquet(root / "0.parquet", [b"a"])
    one_parquet(root / "1.parquet", [b"b"])
    return root


def image_folder(root: Path) -> Path:
    return put(root, "a.png", "c/b.png")


def grow(file: Path) -> None:
    if file.suffix == ".parquet":
        one_parquet(file, [b"b", b"c"])
    else:
        file.write_bytes(file.read_bytes() + b"x")


each_kind = pytest.mark.parametrize(
    ("make", "part"),
    [
        (image_folder, "c/b.png"),
        (text_list, "b.png"),
        (tar_folder, "1.tar"),
        (parquet_folder, "1.parquet"),
    ],
)


@each_kind
def test_fingerprint__stays_while_the_files_do(
    tmp_path: Path, make: Callable[[Path], Path], part: str
) -> None:
    location = make(tmp_path / "root")
    before = open_source(location).fingerprint()
    assert len(bytes.fromhex(before)) == 32
    assert open_source(location).fingerprint() == before

    put(tmp_path / "root", "readme.md", ".hidden.png")  # no part of the source
    (tmp_path / "root" / part).chmod(0o600)
    moved = (tmp_path / "root").rename(tmp_path / "moved")
    assert open_source(moved / location.relative_to(tmp_path / "root")).fingerprint() == before


@pytest.mark.parametrize("change", ["time", "size", "name"])
@each_kind
def test_fingerprint__changes_with_each_file(
    tmp_path: Path, make: Callable[[Path], Path], part: str, change: str
) -> None:
    location, file = make(tmp_path / "root"), tmp_path / "root" / part
    before, changed_ns = open_source(location).fingerprint(), file.stat().st_mtime_ns

    match change:  # pyright: ignore[reportMatchNotExhaustive]
        case "time":
            os.utime(file, ns=(changed_ns, changed_ns + 1))
        case "size":
            grow(file)
            os.utime(file, ns=(changed_ns, changed_ns))
        case "name":
            file.rename(file.with_stem("renamed"))

    assert open_source(location).fingerprint() != before


def test_fingerprint__differs_by_kind_and_by_boundary_of_names(tmp_path: Path) -> None:
    first, second = put(tmp_path / "1", "ab/c.png"), put(tmp_path / "2", "a/bc.png")
    for root in (first, second):
        os.utime(next(root.rglob("*.png")), ns=(0, 0))

    assert open_source(first).fingerprint() != open_source(second).fingerprint()


# Which kind


def test_open_source__auto_finds_each_kind(tmp_path: Path) -> None:
    put(tmp_path / "nested", "a/1.png", "readme.txt", "labels.csv")
    put(tmp_path / "flat", "1.png")
    parquet_folder(tmp_path / "parquet")
    tar_folder(tmp_path / "tar")
    (tmp_path / "list.txt").write_text("flat/1.png")

    assert paths(tmp_path / "nested") == ["a/1.png"]
    assert paths(tmp_path / "flat") == ["1.png"]
    assert paths(tmp_path / "parquet") == ["0.parquet#0", "1.parquet#0"]
    assert paths(tmp_path / "tar") == ["0.tar/a.png", "1.tar/b.png"]
    assert paths(tmp_path / "list.txt") == ["flat/1.png"]


@pytest.mark.parametrize("kind", ["auto", "folder", "list", "parquet", "tar"])
def test_open_source__missing(tmp_path: Path, kind: Kind) -> None:
    assert "nothere: does not exist" in error_of(tmp_path / "nothere", kind=kind)


def test_open_source__unclear_says_what_was_found(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "both")
    put(tmp_path / "both", "sub/1.png")

    text = error_of(tmp_path / "both")
    assert "2 .parquet, 1 .png (in sub)" in text
    assert "kind parquet or folder" in text
    assert paths(tmp_path / "both", kind="folder") == ["sub/1.png"]
    assert len(paths(tmp_path / "both", kind="parquet")) == 2


def test_open_source__nothing_found_says_where_to_look(tmp_path: Path) -> None:
    put(tmp_path / "hub", "data/0.parquet", "data/1.parquet", "README.md")
    (tmp_path / "empty").mkdir()

    assert "found 2 .parquet (in data), 1 .md" in error_of(tmp_path / "hub")
    assert "found no files" in error_of(tmp_path / "empty")


@pytest.mark.parametrize("kind", ["folder", "list", "parquet", "tar"])
def test_open_source__wrong_kind_of_folder(tmp_path: Path, kind: Kind) -> None:
    put(tmp_path / "it", "a.txt")

    assert "looked for" in error_of(tmp_path / "it", kind=kind)


def test_open_source__file_of_unknown_kind(tmp_path: Path) -> None:
    put(tmp_path, "a.tar.bz2", "b.png", "c.docx")

    for name in ("a.tar.bz2", "c.docx"):
        assert "ending in .parquet, .tar, .tar.gz, .tgz, .txt, .csv, .tsv" in error_of(
            tmp_path / name
        )
    assert "a folder that holds images" in error_of(tmp_path / "b.png", kind="folder")


# Helpers


def test_displayed__keeps_utf_8() -> None:
    assert displayed("ü\n日") == "ü\n日"
    assert displayed(os.fsdecode(b"\xff\xfe")) == r"\xff\xfe"


def test_read_file__refuses_files_too_large_for_an_image(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2 << 30)  # sparse: takes no space

    with pytest.raises(OSError, match="2147483648 bytes is over the limit"):
        read_file(tmp_path / "a.png")
