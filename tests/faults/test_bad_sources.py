"""Sources that are wrong, and pictures that only look so."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepcluster_core.artifacts.manifest import Condition, inspect
from stages.index import index
from tests.support.recipes import write_small_recipe
from tests.support.refusals import Refused, make, put
from tests.support.source_files import (
    GOOD,
    JPEG,
    STRUCT,
    file_of,
    folder_of,
    member,
    parquet_of,
    tar_of,
)


def parquets_of(**labels: pa.Array) -> Callable[[Path], Path]:
    """Return what makes a folder of Parquet files of one row; each has its own label."""

    def build(folder: Path) -> Path:
        folder.mkdir()
        for name, label in labels.items():
            pq.write_table(pa.table({"image": [GOOD], "label": label}), folder / f"{name}.parquet")
        return folder

    return build


def mixed(folder: Path) -> Path:
    parquet_of(image=pa.array([GOOD]))(folder)
    put(folder, "a.png", GOOD)
    return folder


def endless(folder: Path) -> Path:
    """A tar file whose second member begins where the first does."""
    return tar_of(("a.png", GOOD), ("b.png", member(size="-4096")))(folder)


# What is made, and what is said of it before a folder of a run is.
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder, "source: does not exist"),
    "empty folder": (folder_of(), "looked for images at any depth"),
    "no pictures": (folder_of(a__txt=b"a", b__doc=b"b"), "found 1 .doc, 1 .txt"),
    "one image": (folder_of(a__png=GOOD), "cluster.k: 2 needs at least 2 images, but there are 1"),
    "no kind": (file_of("a.zip", b"PK"), "ending in .parquet, .tar, .tar.gz, .tgz, .txt"),
    "two kinds": (mixed, "holds 1 .parquet, 1 .png, so it could be of kind parquet or folder"),
    "no columns": (
        parquet_of(text=pa.array(["a"])),
        "no column of encoded images; the columns are",
    ),
    "text column": (parquet_of(image=pa.array(["a"])), "the columns are image: string"),
    "labels": (
        parquet_of(image=pa.array([GOOD]), label=pa.array([[1]])),
        "label must be integers or strings",
    ),
    "labels of two kinds": (
        parquets_of(a=pa.array([1]), b=pa.array(["cat"])),
        "labels are numbers in a.parquet but names in b.parquet",
    ),
    "several columns": (
        parquet_of(jpg=pa.array([GOOD]), png=pa.array([GOOD])),
        "several columns hold images: jpg, png.\n  Fix: choose one with dataset.image_key: jpg",
    ),
    "Git LFS": (
        file_of("x.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "a Git LFS pointer, not the file itself",
    ),
    "compressed": (file_of("x.tar.bz2", b"BZh"), "for example: tar -xf x.tar.bz2"),
    "no Parquet": (file_of("x.parquet", b"PAR1 is not all"), "cannot be read as Parquet"),
    "no header": (file_of("x.csv", b"a.png,cat\n"), "needs a column named path in its first line"),
    "three columns": (file_of("x.csv", b"path,label\na, b.png,1\n"), "line 2 has 3 columns"),
    "open quote": (file_of("x.csv", b'path,label\n"a.png,1\n'), "line 2: unexpected end of data"),
    "no path": (file_of("x.csv", b"path,label\n,1\n"), "line 2 has no path"),
    "named twice": (
        file_of("x.txt", b"a.png\nb.png\n./a.png\n"),
        "lines 1 and 3 both name 'a.png'",
    ),
    "no text": (file_of("x.txt", "a.png\n".encode("utf-16-le")), "is not a list in UTF-8 text"),
}
# The same, seen only while the images are read.
FAILED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "all broken": (
        folder_of(**{f"{n}__png": b"broken" for n in range(9)}),
        "9 of 9 images cannot be read",
    ),
    "zero bytes": (
        folder_of(**{f"{n}__png": b"" for n in range(9)}),
        "\n    0.png: empty file\n    1.png: empty file",
    ),
    "names of two lines": (
        folder_of(**{f"{n}\nFix: {n}__png": b"" for n in range(9)}),
        "\n    0\\nFix: 0.png: empty file\n    1\\nFix",
    ),
    "all missing": (
        file_of("x.txt", b"a.png\nb.png\nc.png\nd.png\ne.png\n"),
        "\n    a.png: No such file or directory",
    ),
    "nulls": (parquet_of(image=pa.array([None] * 9, pa.binary())), "the row holds no image (null)"),
    "no members": (tar_of(("notes.txt", b"a")), "x.tar: holds no images"),
    "several pictures": (
        tar_of(("a.jpg", JPEG), ("a.png", GOOD), ("a.cls", b"1")),
        "Found: 1 jpg, 1 png\n  Fix:   choose with dataset.image_key: jpg",
    ),
    "masks alone": (tar_of(("a.seg.png", GOOD)), "choose one of these: dataset.image_key: seg.png"),
    "paths alone": (
        parquet_of(image=pa.array([{"bytes": None, "path": f"{n}.png"} for n in range(9)], STRUCT)),
        "holds the paths of image files, but no images",
    ),
    "lists of images": (
        parquet_of(images=pa.array([[GOOD]] * 8 + [[GOOD, GOOD]])),
        "row 8 holds a list of 2 images, not one image",
    ),
    "gzip": (file_of("x.tar", b"\x1f\x8b\x08" + bytes(600)), "cannot be read as a tar file"),
    "cut": (
        lambda folder: put(folder, "x.tar", tar_of(("a.png", GOOD * 9))(folder).read_bytes()[:700]),
        "cannot be read as a tar file (unexpected end of data)",
    ),
    "endless": (endless, "cannot be read as a tar file ('b.png' has -4096 bytes)"),
}


@pytest.mark.parametrize(("build", "told"), REFUSED.values(), ids=REFUSED)
def test_run__refuses_a_source_before_anything_is_made(
    build: Callable[[Path], Path], told: str, refused: Refused, earlier_run: Path, tmp_path: Path
) -> None:
    source = build(tmp_path / "source")
    recipe = write_small_recipe(tmp_path / "bad.yaml", source, cluster="{k: 2, pca_dim: 1}")

    message = refused(lambda: make(recipe, earlier_run))

    assert told in message
    assert str(tmp_path / "source") in message or "cluster.k" in message


@pytest.mark.parametrize(("build", "told"), FAILED.values(), ids=FAILED)
def test_run__refuses_a_source_without_images(
    build: Callable[[Path], Path], told: str, refused: Refused, tmp_path: Path
) -> None:
    recipe = write_small_recipe(tmp_path / "bad.yaml", build(tmp_path / "source"))

    message = refused(lambda: make(recipe, tmp_path / "run", index))

    assert told in message
    assert str(tmp_path / "source") in message
    assert inspect(tmp_path / "run" / "images")[0] is Condition.UNFINISHED


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("subset", "41", "dataset.subset: 41 images asked for, but the source has 40"),
        ("kind", "list", "looked for a file that lists images"),
        ("kind", "tar", "looked for .tar or .tar.gz files directly in it"),
        ("image_key", "jpg", "dataset.image_key: jpg chooses among the pictures of a sample"),
        ("image_key", "[]", "dataset.image_key"),
    ],
)
def test_run__refuses_a_source_that_is_not_as_said(
    key: str, value: str, told: str, refused: Refused, small_source: Path, tmp_path: Path
) -> None:
    dataset = f"{{source: SOURCE, shorter_side: 16, {key}: {value}}}"
    recipe = write_small_recipe(tmp_path / "bad.yaml", small_source, dataset=dataset)

    assert told in refused(lambda: make(recipe, tmp_path / "run", index))


def test_run__refuses_to_read_originals_that_share_a_file(refused: Refused, tmp_path: Path) -> None:
    source = tar_of(*((f"{n}.png", GOOD) for n in range(9)))(tmp_path / "source")
    recipe = write_small_recipe(
        tmp_path / "bad.yaml", source, dataset="{source: SOURCE, channels: 1, encoding: none}"
    )

    message = refused(lambda: make(recipe, tmp_path / "run", index))

    assert "dataset.encoding: none reads the original files" in message
    assert not (tmp_path / "run" / "images").exists()


# Images one by one: read, or left out with a reason
