"""Suffixes: B rows of a batch, N rows, D values of a feature."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr

from deepcluster_core.artifacts import outputs
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.outputs import (
    FeaturesArray,
    FeaturesTable,
    LabelsTable,
    SkippedTable,
    whole_files,
)
from deepcluster_core.errors import ArtifactError

ABOUT = {"run": "demo"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_whole_files__take_their_names_when_the_block_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with whole_files(folder / "a", folder / "b", folder / "c") as (a, b, _):
        a.mkdir()
        (a / "inside").write_text("1")
        b.write_text("2")
        assert names(folder) == {"a.part", "b.part"}

    assert names(folder) == {"a", "b"}
    assert (folder / "a" / "inside").read_text() == "1"


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_whole_files__nothing_is_left_of_a_block_that_fails(
    stop: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(stop), whole_files(tmp_path / "a", tmp_path / "b") as (a, b):  # noqa: PT012
        a.mkdir()
        b.write_text("half")
        raise stop

    assert names(tmp_path) == set()


def test_whole_files__nothing_is_left_if_one_cannot_be_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        if path.name == "a.part":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "sync", full)

    writing = whole_files(tmp_path / "a", tmp_path / "b")
    for part in writing.__enter__():
        part.write_text("whole")
    with pytest.raises(ArtifactError, match="No space left"):
        writing.__exit__(None, None, None)

    assert names(tmp_path) == set()


def test_whole_files__what_a_killed_attempt_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.part").mkdir()
    (tmp_path / "a.part" / "old").write_text("half")

    with whole_files(tmp_path / "a") as (a,):
        a.write_text("new")

    assert names(tmp_path) == {"a"}


def test_whole_files__errors_of_the_disk_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(ArtifactError, match=r"a: cannot be written .*\n +Fix: "):
        with whole_files(tmp_path / "file" / "a"):
            raise AssertionError("unreachable")


def test_labels_table__row_groups_are_bounded_and_ids_count_on(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    with LabelsTable(path, ABOUT, held_bytes=1000) as table:
        for batch in range(20):
            cluster_B = np.full(10, batch, np.int32)
            paths = [f"{batch}/{row}" for row in range(10)]
            table.add(paths, cluster_B[None], cluster_B[None] / 2)

    found = pd.read_parquet(path)
    assert list(found["image_id"]) == list(range(200))
    assert list(found["cluster"]) == [batch for batch in range(20) for _ in range(10)]
    assert list(found["distance"]) == [batch / 2 for batch in range(20) for _ in range(10)]
    assert list(found["path"])[199] == "19/9"
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 4, "five batches of 240 bytes are held at most"
    assert json.loads(file.schema_arrow.metadata[b"deepcluster"]) == ABOUT
    assert [str(kind) for kind in file.schema_arrow.types] == ["int64", "string", "int32", "float"]


def test_features_array__grows_over_shards_and_reads_as_a_runs_features(tmp_path: Path) -> None:
    layout = {"chunk_bytes": 80, "chunks_per_shard": 4}  # a chunk has 8 rows of 5 float16
    rows_ND = np.random.default_rng(1).standard_normal((107, 5)).astype(np.float32)
    path, index = tmp_path / "features.zarr", tmp_path / "index.parquet"

    with FeaturesArray(path, index, ABOUT, dim=5, dtype="float16", **layout) as array:
        for start in range(0, 107, 45):
            batch_BD = rows_ND[start : start + 45]
            array.add([str(start + row) for row in range(len(batch_BD))], batch_BD)
        assert array.rows == 107

    wanted_ND = rows_ND.astype(np.float16)
    stored = zarr.open_array(path, mode="r")
    assert (stored.shards, stored.chunks) == ((32, 5), (8, 5))
    assert stored.attrs["deepcluster"] == ABOUT
    np.testing.assert_array_equal(stored[:], wanted_ND)
    np.testing.assert_array_equal(np.concatenate([*Features(tmp_path).blocks()]), wanted_ND)
    assert list(pd.read_parquet(index)["path"]) == [str(row) for row in range(107)]


def test_features_table__holds_lists_of_float32(tmp_path: Path) -> None:
    rows_BD = np.arange(6, dtype=np.float32).reshape(2, 3)
    with FeaturesTable(tmp_path / "features.parquet", ABOUT, dim=3) as table:
        table.add(["a", "b"], rows_BD)

    found = pd.read_parquet(tmp_path / "features.parquet")
    assert list(found.columns) == ["image_id", "path", "feature"]
    np.testing.assert_array_equal(np.stack(list(found["feature"])), rows_BD)
    kind = pq.read_schema(tmp_path / "features.parquet").field("feature").type
    assert str(kind).startswith("fixed_size_list<")
    assert kind.list_size == 3


def test_skipped_table__keeps_the_first_reasons_in_one_line_each(tmp_path: Path) -> None:
    with SkippedTable(tmp_path / "skipped.parquet", ABOUT) as table:
        for number in range(9):
            table.add(f"{number}\n.png", "empty file")

    assert table.rows == 9
    assert table.first == [f"{number}\\n.png: empty file" for number in range(5)]
