"""Files from others are data: none of them runs code, escapes its folder or steers a terminal."""

import io
import json
import os
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deepcluster_core.artifacts.checkpoints import load_momentum, restore_network
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import (
    CLUSTERING,
    FEATURES,
    LABELS,
    MODEL,
    MOMENTUM,
    PIXELS,
)
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import MANIFEST, Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_clustering, read_table
from deepcluster_core.context import Context
from deepcluster_core.data.decode import UnreadableImageError, decode
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.text import printable, printable_lines
from flows.cli.main import main
from stages.index import DatasetConfig, index
from stages.runs.recipe import load_recipe, parse_overrides
from tests.support.recipes import PLAIN, write

HOSTILE = "a\x1b[31m\x07\r\u202eb"
NETWORK = NetworkConfig(name="smallnet", image_size=16)

Plant = Callable[[Path, bytes], None]
"""Write what would run code, if unpickled, where an artifact of the folder has a file."""


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path: Path) -> Iterator[Path]:
    """Return the file that a bomb writes; the test fails if it is there in the end."""
    path = tmp_path / "code-ran"
    yield path
    assert not path.exists()


def test_bomb__goes_off(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))  # noqa: S301  so that the rest means something

    assert (tmp_path / "ran").exists()


# Hostile files


class _Holder:
    """Pickled by torch.save, it loads the pickle that it was given."""

    def __init__(self, bomb: bytes) -> None:
        self.bomb = bomb

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.bomb,)


def as_torch_save(path: Path, bomb: bytes) -> None:
    torch.save(_Holder(bomb), path)


def as_pickle(path: Path, bomb: bytes) -> None:
    path.write_bytes(bomb)


@pytest.mark.parametrize("write_bomb", [as_pickle, as_torch_save])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        (
            MODEL,
            lambda folder: restore_network(NETWORK, channels=1, seed=0, checkpoint=folder),
        ),
        (MOMENTUM, load_momentum),
        (CLUSTERING, read_clustering),
        (LABELS, lambda folder: read_table(folder / LABELS)),
        (MANIFEST, read_manifest),
        (FEATURES, Features),
    ],
)
def test_readers__refuse_a_pickle_under_a_trusted_name(
    name: str, read: Callable[[Path], object], write_bomb: Plant, proof: Path, tmp_path: Path
) -> None:
    write_bomb(tmp_path / name, pickle.dumps(Bomb(proof)))

    with pytest.raises(ArtifactError, match=r"(?s)(cannot be|not hold a finished).*Fix:"):
        read(tmp_path)


def test_inspect__a_pickle_is_no_manifest(proof: Path, tmp_path: Path) -> None:
    as_pickle(tmp_path / MANIFEST, pickle.dumps(Bomb(proof)))

    assert inspect(tmp_path)[0] is Condition.DAMAGED


def test_decode__refuses_an_array_of_objects(proof: Path) -> None:
    stored = io.BytesIO()
    np.save(stored, np.array([[Bomb(proof)]], dtype=object), allow_pickle=True)

    for data in (stored.getvalue(), pickle.dumps(Bomb(proof))):
        with pytest.raises(UnreadableImageError):
            decode(data, channels=1, shorter_side=None)


def test_features__refuse_an_array_with_a_pickle_codec(proof: Path, tmp_path: Path) -> None:
    array = tmp_path / FEATURES
    array.mkdir()
    layout = {"zarr_format": 2, "shape": [1, 1], "chunks": [1, 1], "dtype": "|O", "order": "C"}
    codec = {"compressor": None, "filters": [{"id": "pickle"}], "fill_value": None}
    (array / ".zarray").write_text(json.dumps(layout | codec))
    (array / "0.0").write_bytes(pickle.dumps(Bomb(proof)))

    with pytest.raises(ArtifactError):
        list(Features(tmp_path).blocks())


def test_read_table__pickled_arrow_types_stay_closed(proof: Path, tmp_path: Path) -> None:
    """Arrow before version 14 unpickled the type of such a column."""
    hidden = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(proof)),
    }
    field = pa.field("cluster", pa.int32(), metadata=hidden)
    pq.write_table(pa.table([pa.array([1], pa.int32())], pa.schema([field])), tmp_path / LABELS)

    assert read_table(tmp_path / LABELS)["cluster"].to_pylist() == [1]


def test_images__refuse_a_pickle_as_pixels(proof: Path, tmp_path: Path, source: Path) -> None:
    images = tmp_path / "images"
    indexed(DatasetConfig(source=source, channels=1, encoding="raw"), images)
    (part,) = (images / PIXELS).iterdir()
    as_pickle(part, pickle.dumps(Bomb(proof)))

    with pytest.raises(ArtifactError, match="cannot be opened"):
        Images(images)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{}']]",
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_recipes__make_no_python_objects(value: str, proof: Path, tmp_path: Path) -> None:
    value = value.format(proof)

    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_recipe(write(tmp_path / "recipe.yaml", f"{PLAIN}\nseed: {value}\n"))
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        parse_overrides([f"cluster.options.x={value}"])
    assert parse_overrides([f"seed={value}"]) == {"seed": value}, "text, which no number is"


# Folders


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a tar file whose members would lie elsewhere, were they extracted."""
    path = tmp_path / "shard.tar"
    picture = io.BytesIO()
    np.save(picture, np.zeros((8, 8), np.uint8))
    with tarfile.open(path, "w") as archive:
        for name in ("../../above.npy", f"{tmp_path}/absolute.npy", "inside.npy"):
            member = tarfile.TarInfo(name)
            member.size = picture.tell()
            archive.addfile(member, io.BytesIO(picture.getvalue()))
        link = tarfile.TarInfo("link.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def indexed(dataset: DatasetConfig, out: Path) -> None:
    index.run(dataset=dataset, source="any", out=out, context=Context(seed=0))


def test_index__members_of_a_tar_stay_in_it(source: Path, tmp_path: Path) -> None:
    before = {*tmp_path.iterdir()}
    out = tmp_path / "deep" / "images"

    indexed(DatasetConfig(source=source, channels=1, encoding="png"), out)

    paths = read_table(out / "index.parquet")["path"].to_pylist()
    names = ["above.npy", f"{str(tmp_path)[1:]}/absolute.npy", "inside.npy"]
    assert paths == [f"shard.tar/{name}" for name in names]
    assert [path.name for path in out.parent.iterdir()] == ["images"]
    assert {*tmp_path.iterdir()} - before == {tmp_path / "deep"}
    assert not [*tmp_path.rglob("above.npy"), *tmp_path.rglob("absolute.npy")]
    assert not (tmp_path.parent / "above.npy").exists()


# Terminals


def test_printable__escapes_control_and_direction() -> None:
    assert printable(HOSTILE) == r"a\x1b[31m\x07\r\u202eb"
    assert printable("two\nlines") == r"two\nlines"
    assert printable_lines(f"{HOSTILE}\ntwo") == f"{printable(HOSTILE)}\ntwo"
    assert printable("Zürich, 東京 – 🙂.png") == "Zürich, 東京 – 🙂.png"
    assert printable(os.fsdecode(b"\xff.png")) == r"\udcff.png", "else print() fails"


def test_main__errors_do_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["deepcluster", "show", HOSTILE])

    with pytest.raises(SystemExit):
        main()

    told = capsys.readouterr().err
    assert printable(HOSTILE) in told
    assert "\n  Fix: " in told
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(told)
