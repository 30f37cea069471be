"""Label and metric tables. Suffixes: N images, K clusters, Q dimensions."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from deepcluster_core.artifacts.commit import lock, new_artifact
from deepcluster_core.artifacts.file_names import CLUSTERING, INDEX, LABELS
from deepcluster_core.artifacts.manifest import Stage
from deepcluster_core.artifacts.tables import (
    centroids_of,
    label_frame,
    read_cluster,
    read_clustering,
    read_index,
    read_labels,
    read_metrics,
    write_labels,
    write_metrics,
)
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError
from tests.support.label_tables import CENTROIDS, CLUSTER_N, DISTANCE_N, write, write_index


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return an images artifact, of which only the table exists, of six images."""
    return write_index(tmp_path / "images", [0, 1, 2, 3, 4, 5])


@pytest.fixture
def labels(tmp_path: Path, images: Path) -> Path:
    """Return the labels of the six images."""
    return write(tmp_path / "labels", images)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


# Labels


@settings(deadline=None, max_examples=30)
@given(st.data(), st.integers(1, 40))
def test_write_labels__round_trip(data: st.DataObject, num: int) -> None:
    cluster_N = data.draw(arrays.arrays(np.int32, num, elements=st.integers(0, 3)))
    positive = st.floats(0, 2**40, width=32)
    distance_N = data.draw(arrays.arrays(np.float32, num, elements=positive))
    order = data.draw(st.permutations(range(num)))

    with tempfile.TemporaryDirectory() as name:
        images = write_index(Path(name) / "images", order)
        folder = write(Path(name) / "labels", images, cluster_N, distance_N)
        found, rows = read_labels(folder), pq.read_table(folder / LABELS).to_pylist()

    np.testing.assert_array_equal(found.cluster_N, cluster_N)
    np.testing.assert_array_equal(found.distance_N, distance_N)
    assert found.k == 4
    assert [row["image_id"] for row in rows] == order, "no text is moved"
    assert all(row["path"] == f"{row['image_id']}.png" for row in rows)


def test_write_labels__types_on_disk(labels: Path) -> None:
    schema = pq.read_schema(labels / LABELS)

    types = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    assert types == {"image_id": "int64", "path": "string", "cluster": "int32", "distance": "float"}


def test_write_labels__several_clusterings_come_back_in_any_order_of_rows(tmp_path: Path) -> None:
    images = write_index(tmp_path / "images", [4, 0, 5, 2, 1, 3])
    others = [(CLUSTER_N[::-1] // 2, 2 * DISTANCE_N), (CLUSTER_N, 3 * DISTANCE_N)]
    arrays = {"centroids": CENTROIDS, "centroids_1": CENTROIDS[:2], "centroids_2": CENTROIDS}
    (tmp_path / "labels").mkdir()

    write_labels(
        tmp_path / "labels",
        images=images,
        cluster_N=CLUSTER_N,
        distance_N=DISTANCE_N,
        clustering=arrays,
        others=others,
    )

    found = read_labels(tmp_path / "labels")
    assert [head.k for head in found.heads] == [4, 2, 4]
    assert [len(centroids_KQ) for centroids_KQ in centroids_of(tmp_path / "labels")] == [4, 2, 4]
    for head, (cluster_N, distance_N) in zip(found.others, others, strict=True):
        np.testing.assert_array_equal(head.cluster_N, cluster_N)
        np.testing.assert_array_equal(head.distance_N, distance_N)
    frame = label_frame(tmp_path / "labels", images)
    assert frame["cluster_1"].tolist() == others[0][0].tolist()
    assert frame["distance_2"].tolist() == others[1][1].tolist()
    schema = pq.read_schema(tmp_path / "labels" / LABELS)
    types = [str(schema.field(name).type) for name in ("cluster_1", "distance_1")]
    assert types == ["int32", "float"]


def test_read_labels__without_centroids_is_an_error(tmp_path: Path, images: Path) -> None:
    folder = write(tmp_path / "labels", images)
    save_file({"other": CENTROIDS}, folder / CLUSTERING)

    with pytest.raises(ArtifactError, match=r"holds no centroids\.\n  Fix: run the cluster stage"):
        read_labels(folder)


def test_write_labels__joins_paths_by_image_id(tmp_path: Path) -> None:
    images = write_index(tmp_path / "images", [4, 0, 5, 2, 1, 3])

    folder = write(tmp_path / "labels", images)

    table = pq.read_table(folder / LABELS).to_pylist()
    assert {row["path"]: row["cluster"] for row in table} == {
        f"{number}.png": int(cluster) for number, cluster in enumerate(CLUSTER_N)
    }


def test_read_labels__order_of_the_rows_does_not_matter(labels: Path) -> None:
    rewrite(labels / LABELS, lambda table: table.take([3, 5, 0, 4, 2, 1]))

    found = read_labels(labels)

    np.testing.assert_array_equal(found.cluster_N, CLUSTER_N)
    np.testing.assert_array_equal(found.distance_N, DISTANCE_N)


def test_read_labels__counts_clusters_that_are_empty(labels: Path) -> None:
    assert set(CLUSTER_N) == {0, 2, 3}
    assert read_labels(labels).k == 4


@pytest.mark.parametrize(
    "rows", [[0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 5], [0, 0, 1, 2, 3, 4, 5]], ids=str
)
def test_read_labels__refuses_doubled_and_missing_images(labels: Path, rows: list[int]) -> None:
    rewrite(labels / LABELS, lambda table: table.take(rows))

    with pytest.raises(ArtifactError, match=f"image_id must hold 0 to {len(rows) - 1}, each once"):
        read_labels(labels)


@pytest.mark.parametrize("ids", [[0, 1, 1], [0, 2, 3], [1, 2, 3]], ids=str)
def test_read_index__refuses_doubled_and_missing_images(tmp_path: Path, ids: list[int]) -> None:
    images = write_index(tmp_path / "images", ids)

    with pytest.raises(ArtifactError, match=r"index.parquet: image_id must hold 0 to 2"):
        read_index(images, ["path"], [0])


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [4, 0, 5, 2, 1, 3]], ids=str)
def test_read_index__rows_of_the_images_asked_for(tmp_path: Path, order: list[int]) -> None:
    images = write_index(tmp_path / "images", order)

    rows = read_index(images, ["path", "label"], [5, 1, 5])

    assert [row["path"] for row in rows] == ["5.png", "1.png", "5.png"]
    assert set(rows[0]) == {"image_id", "path", "label"}
    assert read_index(images, ["path"], []) == []
    with pytest.raises(KeyError):
        read_index(images, ["path"], [6])


def test_read_labels__flipped_byte_is_noticed(tmp_path: Path) -> None:
    num = 2000
    images = write_index(tmp_path / "images", list(range(num)))
    distance_N = np.random.default_rng(0).random(num).astype(np.float32)
    folder = write(tmp_path / "labels", images, np.zeros(num, np.int32), distance_N)
    data = bytearray((folder / LABELS).read_bytes())
    at = data.find(distance_N[1000:1010].tobytes()[:8])
    assert at > 0, "the distances should lie there as they are: they do not compress"
    data[at] ^= 1
    (folder / LABELS).write_bytes(data)

    with pytest.raises(ArtifactError, match=r"labels.parquet: cannot be read .*\n.*--force"):
        read_labels(folder)


def test_read_labels__missing_table(labels: Path) -> None:
    (labels / LABELS).unlink()

    with pytest.raises(ArtifactError, match=r"labels.parquet: cannot be read"):
        read_labels(labels)


def test_read_labels__missing_column(labels: Path) -> None:
    rewrite(labels / LABELS, lambda table: table.drop_columns(["cluster"]))

    with pytest.raises(ArtifactError, match=r"labels.parquet: cannot be read \(no column cluster"):
        read_labels(labels)


def test_read_clustering__round_trip_and_damage(labels: Path) -> None:
    np.testing.assert_array_equal(read_clustering(labels)["centroids"], CENTROIDS)

    (labels / CLUSTERING).write_bytes((labels / CLUSTERING).read_bytes()[:-3])

    with pytest.raises(ArtifactError, match=f"{CLUSTERING}: cannot be read"):
        read_clustering(labels)


def test_write_labels__takes_arrays_that_are_not_row_major(tmp_path: Path, images: Path) -> None:
    components = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_labels(
        tmp_path,
        images=images,
        cluster_N=CLUSTER_N,
        distance_N=DISTANCE_N,
        clustering={"pca_components": components},
    )

    np.testing.assert_array_equal(read_clustering(tmp_path)["pca_components"], components)


def test_read_cluster__nearest_to_the_centroid_first(labels: Path, images: Path) -> None:
    found = [(row["image_id"], row["path"]) for row in read_cluster(labels, 2, images)]

    assert found == [(2, "2.png"), (5, "5.png"), (0, "0.png")], "equally far ones by image_id"
    assert read_cluster(labels, 1, images) == []


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [4, 0, 5, 2, 1, 3]])
def test_labels__without_paths_are_joined_with_the_index(tmp_path: Path, order: list[int]) -> None:
    images = write_index(tmp_path / "images", order)
    whole = write(tmp_path / "whole", images)
    bare = write(tmp_path / "bare", images, with_paths=False)

    assert pq.read_schema(bare / LABELS).names == ["image_id", "cluster", "distance"]
    assert read_cluster(bare, 2, images) == read_cluster(whole, 2, images)
    pd.testing.assert_frame_equal(label_frame(bare, images), label_frame(whole, images))
    np.testing.assert_array_equal(read_labels(bare).cluster_N, CLUSTER_N)
    # As a person does it in pandas.
    table, index = pd.read_parquet(bare / LABELS), pd.read_parquet(images / INDEX)
    joined = table.merge(index[["image_id", "path"]], on="image_id")
    assert (joined.path == joined.image_id.astype(str) + ".png").all()


# Whole runs, as pandas reads them


def test_labels__pandas_reads_all_epochs_at_once(tmp_path: Path, images: Path) -> None:
    stage = Stage(name="cluster", version=1, kind="labels", files=())
    for epoch in (0, 7, 12):
        folder = tmp_path / "labels" / f"epoch={epoch:04d}"
        context = Context(seed=1, epoch=epoch)
        with lock(folder), new_artifact(stage, folder, config={}, inputs={}, context=context):
            write(folder, images, (CLUSTER_N + epoch).astype(np.int32))

    frame = pd.read_parquet(tmp_path / "labels")

    assert list(frame.columns) == ["image_id", "path", "cluster", "distance", "epoch"]
    assert len(frame) == 3 * 6
    assert set(frame.epoch.astype(int)) == {0, 7, 12}
    seventh = frame.loc[frame.epoch.astype(int) == 7].sort_values(by="image_id")
    assert seventh.cluster.tolist() == (CLUSTER_N + 7).tolist()
    assert seventh.path.tolist() == [f"{number}.png" for number in range(6)]


def test_metrics__pandas_reads_the_learning_curve(tmp_path: Path) -> None:
    for epoch, previous in ((0, None), (1, 0.75)):
        folder = tmp_path / "metrics" / f"epoch={epoch:04d}"
        folder.mkdir(parents=True)
        write_metrics(folder, {"nmi_previous": previous, "nmi_labels": None, "k": 5, "loss": 1.5})

    frame = pd.read_parquet(tmp_path / "metrics").sort_values(by="epoch")

    assert list(frame.columns) == ["nmi_previous", "nmi_labels", "k", "loss", "epoch"]
    assert frame.nmi_previous.isna().tolist() == [True, False]
    assert frame.nmi_previous.iloc[1] == 0.75
    assert (frame.k.dtype, frame.loss.dtype) == (np.int64, np.float64)


def test_write_metrics__round_trip(tmp_path: Path) -> None:
    row = {"nmi_previous": None, "k": 2**40, "loss": 0.1, "warnings": ""}

    write_metrics(tmp_path, row)

    assert read_metrics(tmp_path) == row


# Tables of many rows


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 5, 7], [9, 1, 2, 3, 4, 5]])
def test_write_labels__refuses_an_index_of_other_images(tmp_path: Path, rows: list[int]) -> None:
    images = write_index(tmp_path / "images", rows)

    with pytest.raises(ArtifactError, match="image_id must hold 0 to 5, each once"):
        write(tmp_path / "labels", images)
