"""Sources of a few small pictures: folders, Parquet and tar files, right or wrong."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.support.refusals import put

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
