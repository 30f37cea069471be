"""Label tables of many rows, which are read and written in batches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepcluster_core.artifacts import image_rows
from deepcluster_core.artifacts.file_names import INDEX, LABELS
from deepcluster_core.artifacts.images_writer import INDEX_SCHEMA
from deepcluster_core.artifacts.table_writer import GROUP_ROWS
from deepcluster_core.artifacts.tables import (
    label_frame,
    read_cluster,
    read_labels,
)
from tests.support.label_tables import write, write_index


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_labels__the_same_in_any_number_of_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shuffled: bool
) -> None:
    order = np.arange(100)
    if is_shuffled:
        np.random.default_rng(3).shuffle(order)
    images = write_index(tmp_path / "images", order.tolist())
    cluster_N = np.arange(100, dtype=np.int32) % 4
    distance_N = np.random.default_rng(0).random(100, dtype=np.float32)
    expected = (write(tmp_path / "one", images, cluster_N, distance_N) / LABELS).read_bytes()
    monkeypatch.setattr(image_rows, "GROUP_ROWS", 7)

    folder = write(tmp_path / "many", images, cluster_N, distance_N)

    assert (folder / LABELS).read_bytes() == expected, "it depends on the rows alone"
    np.testing.assert_array_equal(read_labels(folder).cluster_N, cluster_N)
    np.testing.assert_array_equal(read_labels(folder).distance_N, distance_N)
    members = np.flatnonzero(cluster_N == 2)
    nearest_first = members[np.argsort(distance_N[members])].tolist()
    assert [row["image_id"] for row in read_cluster(folder, 2, images)] == nearest_first
    frame = label_frame(folder, images)
    assert list(frame.columns) == ["image_id", "path", "cluster", "distance"]
    assert frame["image_id"].tolist() == list(range(100))
    assert frame["path"].tolist() == [f"{number}.png" for number in range(100)]
    assert frame["cluster"].tolist() == cluster_N.tolist()


def test_write_labels__row_groups_of_a_fixed_number_of_rows(tmp_path: Path) -> None:
    num = 2 * GROUP_ROWS + 5
    images = write_index(tmp_path / "images", list(range(num)))

    folder = write(tmp_path / "labels", images, np.zeros(num, np.int32), np.zeros(num, np.float32))

    with pq.ParquetFile(folder / LABELS) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [GROUP_ROWS, GROUP_ROWS, 5]


def test_open_rows__holds_a_batch_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_rows, "GROUP_ROWS", 100)
    random = np.random.default_rng(0).integers(32, 127, (4000, 1000), np.uint8)
    paths = [row.tobytes().decode() for row in random]
    table = pa.table({"image_id": list(range(4000)), "path": paths})
    pq.write_table(table, tmp_path / INDEX, row_group_size=100)

    del table
    before, held = pa.total_allocated_bytes(), 0
    with image_rows.open_rows(tmp_path / INDEX, ["path"], stage="index") as rows:
        for _, _ in rows.batches(["path"]):
            held = max(held, pa.total_allocated_bytes() - before)

    assert 0 < held < 1 << 20, "a few batches of 0.1 MB each, of 4 MB"


@pytest.mark.slow
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_write_labels__more_than_2_gib_of_paths(tmp_path: Path, is_shuffled: bool) -> None:
    num, batch = 600_000, 50_000
    paths = [f"{number:0>3900}" for number in range(num)]
    ids = np.arange(num)
    if is_shuffled:
        np.random.default_rng(0).shuffle(ids)
    with pq.ParquetWriter(tmp_path / INDEX, INDEX_SCHEMA) as writer:
        for start in range(0, num, batch):
            chosen = ids[start : start + batch]
            nulls = pa.nulls(len(chosen))
            text = [paths[number] for number in chosen]
            columns = [chosen, text, *(nulls.cast(field.type) for field in list(INDEX_SCHEMA)[2:])]
            writer.write_table(pa.table(columns, schema=INDEX_SCHEMA))
    assert sum(map(len, paths)) > 1 << 31

    folder = write(tmp_path, tmp_path, np.zeros(num, np.int32), np.zeros(num, np.float32))

    with pq.ParquetFile(folder / LABELS) as file:
        at = 0
        for rows in file.iter_batches(batch, columns=["image_id", "path"]):
            expected = ids[at : at + len(rows)].tolist()
            assert rows["image_id"].to_pylist() == expected
            assert rows["path"].to_pylist() == [paths[number] for number in expected]
            at += len(rows)
    assert at == num
