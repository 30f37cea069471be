"""Valid files of every kind that is read."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save

from deepcluster_core.artifacts.file_names import INDEX
from deepcluster_core.artifacts.manifest import MANIFEST
from deepcluster_core.context import Context
from deepcluster_core.evaluation.voc.dataset import PALETTE, VOID
from stages.index import DatasetConfig, index
from tests.support.recipes import PLAIN
from tests.support.voc_tree import write_voc2012

CONFIGS = Path(__file__).parents[2] / "configs"


def whole_files(folder: Path, pictures: Path) -> dict[str, list[bytes]]:
    """Return the bytes of valid files by the name of their reader."""
    dataset = DatasetConfig(source=pictures, subset=12, shorter_side=8, channels=1, encoding="raw")
    images = folder / "images"
    index.run(dataset=dataset, source="any", out=images, context=Context(seed=1))
    arrays = {"centroids": np.eye(3, dtype=np.float32), "pca_mean": np.zeros(4, np.float32)}
    encoded = [picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    return {
        "recipe": [PLAIN.encode(), *(path.read_bytes() for path in CONFIGS.glob("*.yaml"))],
        "set": [b"cluster.k=50", b"train.crop_area=[0.3, 1e0]", b"dataset={labels: none}"],
        "manifest": [(images / MANIFEST).read_bytes()],
        "index": [(images / INDEX).read_bytes()],
        "labels": [labels_table()],
        "metrics": [pd.DataFrame([{"loss": 1.5, "k": 5}]).to_parquet()],
        "clustering": [save(arrays)],
        "momentum": [save(arrays)],
        "list": [b"a/b.png\nc.jpg\n\xff.png\n"],
        "table": [b'path,label\na.png,cat\n"b, c.png",\n', b"label,other,path\n1,2,x.png\n"],
        "parquet": [parquet_of(encoded)],
        "tar": [tar_of(encoded)],
        "picture": [*encoded, array()],
        "voc": [voc_of_one(folder / "voc")],
        "annotation": [path.read_bytes() for path in folder.glob("voc/**/*.xml")],
        "mask": [mask(PALETTE.tobytes()), mask(bytes(range(63)))],
    }


def picture(kind: str) -> bytes:
    """Return a picture of 12 x 9 pixels, in a format of Pillow."""
    stored = io.BytesIO()
    ramp_HW = np.add.outer(np.arange(9), np.arange(12)) * 8
    Image.fromarray(ramp_HW.astype(np.uint8)).save(stored, kind)
    return stored.getvalue()


def mask(palette: bytes) -> bytes:
    """Return a mask of 12 x 9 pixels."""
    stored = io.BytesIO()
    numbers = np.array([0, 3, 20, VOID], np.uint8)
    image = Image.fromarray(np.resize(numbers, (9, 12)))
    image.putpalette(palette)
    image.save(stored, "PNG", bits=8)
    return stored.getvalue()


def voc_of_one(root: Path) -> bytes:
    """Write a Pascal VOC of one picture; return the bytes of its tar file."""
    write_voc2012(root, sizes={"train": 1})
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w") as archive:
        archive.add(root, ".")
    return stored.getvalue()


def array() -> bytes:
    stored = io.BytesIO()
    np.save(stored, np.arange(96, dtype=np.uint16).reshape(8, 12))
    return stored.getvalue()


def labels_table() -> bytes:
    columns = {
        "image_id": pa.array(range(6), pa.int64()),
        "path": pa.array([f"{number}.png" for number in range(6)]),
        "cluster": pa.array([0, 1, 2, 0, 1, 2], pa.int32()),
        "distance": pa.array(np.linspace(0, 1, 6), pa.float32()),
    }
    return parquet(pa.table(columns))


def parquet_of(encoded: list[bytes]) -> bytes:
    """Return a table of pictures in the layout of the Hugging Face Hub."""
    rows: list[dict[str, object]] = []
    for number, data in enumerate(encoded):
        rows.append({"bytes": data, "path": f"{number}.png"})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    labels = pa.array(range(len(rows)), pa.int64())
    images = pa.array(rows, kind)
    return parquet(pa.table({"image": images, "label": labels}))


def parquet(table: pa.Table) -> bytes:
    stored = io.BytesIO()
    pq.write_table(table, stored, write_page_checksum=True)
    return stored.getvalue()


def tar_of(encoded: list[bytes]) -> bytes:
    """Return a shard of pictures and labels in the layout of WebDataset."""
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w") as archive:
        for number, data in enumerate(encoded):
            sample = {".png": data, ".cls": b"%d" % number}
            for suffix, content in sample.items():
                member = tarfile.TarInfo(f"{number:04d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return stored.getvalue()
