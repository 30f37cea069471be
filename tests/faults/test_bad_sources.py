"""Sources that are wrong, and pictures that only look so."""

import io
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deepcluster_core.artifacts.file_names import INDEX, SKIPPED
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import Condition, inspect
from stages.index import index
from tests.support.recipes import write_small_recipe
from tests.support.refusals import Refused, make, put

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def picture(mode: str = "RGB", format: str = "PNG", shade: int = 200, **options: Any) -> bytes:  # noqa: ANN401  Pillow's own
    """Return a picture of 24 x 20 pixels, its left half black and its right half of a shade."""
    image = Image.new("L", (24, 20))
    image.paste(shade, (12, 0, 24, 20))
    return saved(image.convert(mode), format, **options)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: ANN401  Pillow's own
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


GOOD = picture()
JPEG = picture(format="JPEG", quality=95)


def folder_of(**files: bytes) -> Callable[[Path], Path]:
    """Return what makes a folder of files; `__` in a name stands for a dot."""

    def build(folder: Path) -> Path:
        folder.mkdir()
        for name, data in files.items():
            put(folder, name.replace("__", "."), data)
        return folder

    return build


def file_of(name: str, data: bytes) -> Callable[[Path], Path]:
    return lambda folder: put(folder, name, data)


def parquet_of(**columns: pa.Array) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        folder.mkdir()
        pq.write_table(pa.table(columns), folder / "x.parquet")
        return folder / "x.parquet"

    return build


def tar_of(*members: tuple[str, bytes | tarfile.TarInfo]) -> Callable[[Path], Path]:
    """Return what makes a tar file of members: a name and its data, or what else it is."""

    def build(folder: Path) -> Path:
        folder.mkdir()
        with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for name, what in members:
                info = what if isinstance(what, tarfile.TarInfo) else tarfile.TarInfo(name)
                info.name = name
                data = b"" if isinstance(what, tarfile.TarInfo) else what
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return folder / "x.tar"

    return build


def member(kind: bytes = tarfile.REGTYPE, to: str = "", **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname, info.pax_headers = kind, to, pax
    return info


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


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG of 80 bytes whose header promises many pixels."""
    data = bytearray(picture("1"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def deep() -> bytes:
    """The same picture in 16 bits. The percentiles of the index are its own limits."""
    values_HW = np.full((20, 24), 200 * 257, np.uint16)
    values_HW[:, :12] = 0
    values_HW[:, -2:] = 65535
    return saved(Image.fromarray(values_HW), "PNG")


def animated(format: str, **options: Any) -> bytes:  # noqa: ANN401  Pillow's own
    """The same picture, and then two of other shades."""
    first, *others = (Image.open(io.BytesIO(picture("L", shade=shade))) for shade in (200, 90, 10))
    return saved(first, format, save_all=True, append_images=others, **options)


def of_objects() -> bytes:
    """An array that runs code where it is unpickled."""
    file = io.BytesIO()
    np.save(file, np.array([[print]], dtype=object), allow_pickle=True)
    return file.getvalue()


READ: dict[str, tuple[str | bytes, bytes]] = {
    "plain": ("x.png", GOOD),
    "grey": ("x.png", picture("L")),
    "CMYK": ("x.jpg", picture("CMYK", "JPEG", quality=95)),
    "16 bits": ("x.png", deep()),
    "animated GIF": ("x.gif", animated("GIF")),
    "animated WebP": ("x.webp", animated("WEBP", lossless=True)),
    "pages of TIFF": ("x.tif", animated("TIFF")),
    "extension of another": ("x.png", JPEG),
    "upper case": ("X.JPEG", JPEG),
    "line break": ("a\nb.png", GOOD),
    "no UTF-8": (b"caf\xe9.png", GOOD),
    "quotes": ("a '\",;b.png", GOOD),
    "long": ("x" * 250 + ".png", GOOD),
    "ends early by a comment": ("x.jpg", JPEG + b"trailing notes"),
}
LEFT_OUT: dict[str, tuple[str | bytes, bytes, str]] = {
    "zero bytes": ("x.png", b"", "empty file"),
    "truncated JPEG": ("x.jpg", JPEG[: len(JPEG) // 2], "truncated file (JPEG)"),
    "truncated PNG": ("x.png", GOOD[:-30], "truncated"),
    "bomb": ("x.png", bomb(), "50000 x 50000 pixels is over the limit of 178956970 pixels"),
    "line of pixels": ("x.png", bomb(90_000, 1), "one side is more than 100 times the other"),
    "page of the web": ("x.jpg", b"<html>404", "not an image but a web page (HTML)"),
    "HEIC": ("x.heic", b"\0\0\0\x18ftypheic", "damaged or truncated HEIF file"),
    "program": ("x.npy", b"\x93NUMPY\x01\0\x10\0{'a': [].__x__}", "damaged or truncated NPY"),
    "array of objects": ("x.npy", of_objects(), "array of object"),
    "no UTF-8, and empty": (b"\xff.png", b"", "empty file"),
}


def indexed(source: Path, tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make an images artifact; return its rows and those of the images left out."""
    dataset = "{source: SOURCE, shorter_side: 20, channels: 1, encoding: raw, "
    dataset += "max_skipped_fraction: 0.9}"
    recipe = write_small_recipe(
        tmp_path / "odd.yaml", source, dataset=dataset, cluster="{k: 2, pca_dim: 1}"
    )
    make(recipe, tmp_path / "run", index)
    images = tmp_path / "run" / "images"
    return pd.read_parquet(images / INDEX), pd.read_parquet(images / SKIPPED)


def shown(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


@pytest.mark.parametrize(("name", "data"), READ.values(), ids=READ)
def test_run__reads_what_is_only_unusual(name: str | bytes, data: bytes, tmp_path: Path) -> None:
    source = folder_of(_1__png=GOOD, _2__png=GOOD)(tmp_path / "source")
    put(source, name, data)

    rows, skipped = indexed(source, tmp_path)

    assert sorted(rows.path) == sorted(["_1.png", "_2.png", shown(name)])
    assert len(skipped) == 0
    at = rows.path.tolist().index(shown(name))
    pixels_HW = Images(tmp_path / "run" / "images")[at][..., 0].astype(int)
    assert pixels_HW[10, 4] < 8
    assert abs(pixels_HW[10, 20] - 200) < 8, "the first frame, but for what compression rounds"


@pytest.mark.parametrize(("name", "data", "reason"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_run__leaves_out_what_cannot_be_read(
    name: str | bytes, data: bytes, reason: str, tmp_path: Path
) -> None:
    source = folder_of(_1__png=GOOD, _2__png=GOOD)(tmp_path / "source")
    put(source, name, data)

    rows, skipped = indexed(source, tmp_path)

    assert rows.path.tolist() == ["_1.png", "_2.png"]
    assert skipped.path.tolist() == [shown(name)]
    assert reason in skipped.reason[0]


def test_run__passes_over_links_in_a_circle_and_pipes(tmp_path: Path) -> None:
    source = folder_of(_1__png=GOOD, _2__png=GOOD)(tmp_path / "source")
    (source / "a").mkdir()
    (source / "a" / "up").symlink_to(source)
    (source / "itself.png").symlink_to(source / "itself.png")
    (source / "nowhere.png").symlink_to(source / "nothing")
    os.mkfifo(source / "pipe.png")

    rows, skipped = indexed(source, tmp_path)

    assert rows.path.tolist() == ["_1.png", "_2.png"]
    assert dict(zip(skipped.path, skipped.reason, strict=True)) == {
        "itself.png": "Too many levels of symbolic links",
        "nowhere.png": "No such file or directory",
        "pipe.png": "not a regular file",
    }


def test_run__reads_nothing_outside_of_a_tar_and_writes_nothing(tmp_path: Path) -> None:
    secret = put(tmp_path, "secret.png", picture(shade=90))
    source = tar_of(
        ("1.png", GOOD),
        ("../2.png", GOOD),
        (f"{tmp_path}/3.png", GOOD),
        ("link.png", member(tarfile.SYMTYPE, "../secret.png")),
        ("hard.png", member(tarfile.LNKTYPE, str(secret))),
        ("device.png", member(tarfile.BLKTYPE)),
        ("pipe.png", member(tarfile.FIFOTYPE)),
        ("4.cls", member(tarfile.SYMTYPE, "/etc/hostname")),
        ("4.png", b"broken"),
    )(tmp_path / "source")

    rows, skipped = indexed(source, tmp_path)

    assert rows.path.tolist() == ["x.tar/1.png", "x.tar/2.png", f"x.tar{tmp_path}/3.png"]
    assert rows.label.isna().all()
    assert skipped.path.tolist() == ["x.tar/4.png"]
    stored = Images(tmp_path / "run" / "images")
    assert {int(stored[i][10, 20, 0]) for i in range(3)} == {200}, "the secret has 90"
    found = {path.name for path in tmp_path.rglob("*.png")}
    assert found == {"secret.png"}, "nothing is extracted"


def test_run__leaves_out_rows_of_parquet_that_hold_no_image(tmp_path: Path) -> None:
    stored = [{"bytes": None, "path": "a.png"}, None, {"bytes": GOOD, "path": "b.png"}]
    stored += [{"bytes": GOOD, "path": None}, {"bytes": b"", "path": "c.png"}]
    source = parquet_of(image=pa.array(stored, STRUCT))(tmp_path / "source")

    rows, skipped = indexed(source, tmp_path)

    assert rows.path.tolist() == ["b.png", "x.parquet#3"]
    assert dict(zip(skipped.path, skipped.reason, strict=True)) == {
        "a.png": "the row holds no image (null)",
        "x.parquet#1": "the row holds no image (null)",
        "c.png": "empty file",
    }


def test_run__leaves_out_listed_files_that_are_missing(tmp_path: Path) -> None:
    folder = folder_of(a__png=GOOD, b__png=GOOD)(tmp_path / "source")
    listed = put(folder, "x.csv", b"path,label\nb.png,cat\ngone.png,dog\na.png,\n")

    rows, skipped = indexed(listed, tmp_path)

    assert rows.path.tolist() == ["a.png", "b.png"]
    assert rows.label.fillna("").tolist() == ["", "cat"]
    assert skipped.path.tolist() == ["gone.png"]
    gone = f"No such file or directory: line 3, looked for {folder}/gone.png"
    assert skipped.reason.tolist() == [gone]
