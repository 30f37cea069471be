"""Pictures that are unusual or damaged: each is read, or left out with a reason."""

import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from deepcluster_core.artifacts.file_names import INDEX, SKIPPED
from deepcluster_core.artifacts.images import Images
from stages.index import index
from tests.support.recipes import write_small_recipe
from tests.support.refusals import make, put
from tests.support.source_files import (
    GOOD,
    JPEG,
    STRUCT,
    folder_of,
    member,
    parquet_of,
    picture,
    saved,
    tar_of,
)


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
