"""Images of every kind of source in a folder, and the same files on an object store."""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deepcluster_core.artifacts.manifest import Manifest, read_manifest
from deepcluster_core.artifacts.remote.store import Store
from deepcluster_core.context import Context
from deepcluster_core.data.sources.store_files import client_of
from stages.index import DatasetConfig, index
from tests.support.object_stores import BUCKET, ObjectStoreServer, environment_of

NUM_SHARDS = 6
SHARD_IMAGES = 16


def picture(seed: int) -> bytes:
    """Return a PNG file of noise."""
    pixels_HWC = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a tar file, compressed if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def shard(number: int) -> dict[str, bytes]:
    """Return the members of a shard: pictures, labels, and something that is left out."""
    members: dict[str, bytes] = {}
    for place in range(SHARD_IMAGES):
        key = f"{number:02d}-{place:03d}"
        members[f"{key}.png"] = picture(1000 * number + place)
        members[f"{key}.cls"] = str(place % 3).encode()
        members[f"{key}.seg.png"] = b"a mask"
    members["damaged.png"] = b"no picture"
    return members


def write_sources(root: Path) -> Path:
    """Write one source of every kind below `root`."""
    for name in ("ant/1.png", "ant/ö 2.png", "bee/1.png", "bee/deep/er.PNG", "bee/.hidden.png"):
        path = root / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(hash_of(name)))
    (root / "folder/notes.md").write_text("no picture")
    for number in range(NUM_SHARDS):
        write_tar(root / f"shards/{number:05d}.tar", shard(number))
    for number in range(2):
        write_tar(root / f"packed/{number}.tar.gz", shard(number))
    for name in ("n01440764", "n01443537"):
        members = {f"{name}_{number}.png": picture(number) for number in range(3)}
        write_tar(root / f"classes/{name}.tar", members)
    (root / "rows/label=cat").mkdir(parents=True)
    for name, first in (
        ("train-00000.parquet", 0),
        ("train-00002.parquet", 90),
        ("label=cat/train-00001.parquet", 50),
    ):
        rows = [{"bytes": picture(first + row), "path": f"{row}.png"} for row in range(30)]
        pq.write_table(pa.table({"image": rows}), root / "rows" / name)
    lines = [f"folder/{name},{name[:3]}" for name in ("ant/1.png", "ant/ö 2.png", "bee/1.png")]
    (root / "list.csv").write_text("\n".join(["path,label", *lines]))
    (root / "list.txt").write_text("./folder/ant/1.png 0\nfolder/bee/1.png 1\n")
    return root


def hash_of(name: str) -> int:
    """Return a seed for a name, the same in every process."""
    return sum(name.encode())


def upload(server: ObjectStoreServer, root: Path, prefix: str = "data") -> None:
    """Put all files below `root` on the store."""
    with reached(server.endpoint):
        upload_to(f"s3://{BUCKET}/{prefix}", root)


def upload_to(url: str, root: Path) -> None:
    """Put all files below `root` on the store that this process reaches."""
    store = Store(url)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            store.put(path.relative_to(root).as_posix(), path.read_bytes())


def put(server: ObjectStoreServer, key: str, data: bytes) -> None:
    """Put an object on the store."""
    with reached(server.endpoint):
        Store(f"s3://{BUCKET}").put(key, data)


@contextmanager
def reached(endpoint: str, **changes: str) -> Iterator[None]:
    """Let this process reach a server, or a proxy before it, during the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment_of(endpoint), **changes}.items():
            patch.setenv(name, value)
        client_of.cache_clear()
        yield
    client_of.cache_clear()


def dataset(source: Path | str, **settings: Any) -> DatasetConfig:  # noqa: ANN401  JSON
    """Return the section of a recipe, as a recipe with this source has it."""
    values = {"source": os.fspath(source), "max_skipped_fraction": 0.5, "encoding": "png"}
    values["shorter_side"] = 16
    return DatasetConfig.model_validate_json(json.dumps({**values, **settings}))


def indexed(section: DatasetConfig, out: Path, **context: Any) -> Manifest:  # noqa: ANN401
    """Index a source, and return the manifest."""
    fingerprint = section.open_source().fingerprint()
    index.run(out=out, context=Context(seed=1, **context), dataset=section, source=fingerprint)
    return read_manifest(out)
