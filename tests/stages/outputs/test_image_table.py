"""Tables of images, opened with the programs that people use. Suffixes: N images.

These programs are imported by the tests that use them, because each takes a second.
"""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import deepcluster
from deepcluster_core.artifacts.tables import read_labels
from deepcluster_core.errors import ArtifactError, ConfigError
from stages.runs.cluster_names import name_cluster
from stages.runs.image_facts import ImageFacts
from stages.runs.outputs.image_table import COLUMNS, TableRequest, write_image_table
from stages.runs.past_run import PastRun
from stages.runs.run_images import RunImages
from tests.support.recipes import write_recipe

EVERYTHING = TableRequest(embedding=True, thumbnails=True)
NUM_IMAGES = 241


@pytest.fixture(scope="module")
def table(shared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Parquet table of everything; shared."""
    out = tmp_path_factory.mktemp("tables") / "all.parquet"
    write_image_table(PastRun.open(str(shared_run)), out, EVERYTHING)
    return out


def test_write_image_table__has_what_the_run_has(table: Path, past: PastRun) -> None:
    frame = pd.read_parquet(table)

    assert list(frame.columns) == [*COLUMNS, "embedding", "image"]
    facts = ImageFacts.of(past, None)
    labels = read_labels(past.whole("labels", 1))
    np.testing.assert_array_equal(frame["image_id"], np.arange(NUM_IMAGES))
    np.testing.assert_array_equal(frame["cluster"], labels.cluster_N)
    np.testing.assert_array_equal(frame["distance"], labels.distance_N)
    np.testing.assert_array_equal(frame["second_cluster"], facts.second_clusters)
    np.testing.assert_array_equal(frame["outlier"], facts.outliers)
    np.testing.assert_array_equal(np.stack(list(frame["embedding"])), facts.rows)
    assert all(frame["stability"].isin([0, 1])), "one epoch before"
    assert all(frame["x"].between(-1, 1))
    assert frame["label"].iloc[0] == frame["path"].iloc[0].split("/")[0]


def test_write_image_table__a_copy_is_the_nearest_image(table: Path) -> None:
    frame = pd.read_parquet(table).set_index("path")

    copy = frame.loc["disc/copy of 000.png"]
    assert frame["image_id"]["disc/000.png"] == copy["nearest"]
    assert copy["similarity"] == pytest.approx(1, abs=1e-5)


def test_write_image_table__opens_in_duckdb(table: Path) -> None:
    duckdb: Any = import_module("duckdb")
    with duckdb.connect() as connection:
        query = "select cluster, count(*), avg(outlier) from read_parquet(?) group by 1 order by 1"
        found = connection.execute(query, [str(table)]).fetchall()

    assert sum(row[1] for row in found) == NUM_IMAGES


def test_write_image_table__opens_in_datasets_with_pictures(
    table: Path, tmp_path: Path, past: PastRun
) -> None:
    datasets: Any = import_module("datasets")
    found = datasets.Dataset.from_parquet(str(table), cache_dir=str(tmp_path))

    assert isinstance(found.features["image"], datasets.Image)
    picture = found[0]["image"]
    packed = ImageFacts.of(past, None).images[0]
    assert picture.size == (min(packed.shape[:2]),) * 2
    assert len(found[0]["embedding"]) == 8


def test_write_image_table__thumbnails_are_pictures(table: Path) -> None:
    image = pd.read_parquet(table, columns=["image"])["image"].iloc[3]

    assert Image.open(BytesIO(image["bytes"])).size == (16, 16)
    assert image["path"].startswith("bar/")


def test_write_image_table__opens_in_anndata(past: PastRun, table: Path, tmp_path: Path) -> None:
    written = write_image_table(past, tmp_path / "t.h5ad", TableRequest())

    found = import_module("anndata").read_h5ad(tmp_path / "t.h5ad")
    frame = pd.read_parquet(table)
    assert written.num_images == found.n_obs == NUM_IMAGES
    np.testing.assert_array_equal(np.asarray(found.X), np.stack(list(frame["embedding"])))
    np.testing.assert_array_equal(found.obsm["X_pca"], frame[["x", "y"]])
    assert list(found.obs_names) == [str(number) for number in range(NUM_IMAGES)]
    for name in ("cluster", "distance", "path", "label", "nearest", "stability"):
        assert list(found.obs[name]) == list(frame[name]), name
    assert all(found.obs["cluster_name"].isna())
    assert json.loads(found.uns["deepcluster"])["labels"]["epoch"] == 1


def test_write_image_table__one_axis_of_the_map_is_a_column(past: PastRun, tmp_path: Path) -> None:
    write_image_table(past, tmp_path / "x.h5ad", TableRequest(columns=("cluster", "x")))

    found = import_module("anndata").read_h5ad(tmp_path / "x.h5ad")
    assert list(found.obs) == ["image_id", "cluster", "x"]
    assert "X_pca" not in found.obsm


def test_write_image_table__csv_says_the_same(past: PastRun, table: Path, tmp_path: Path) -> None:
    write_image_table(past, tmp_path / "t.csv", TableRequest())

    wanted = pd.read_parquet(table, columns=[*COLUMNS])
    found = pd.read_csv(tmp_path / "t.csv")
    for name in COLUMNS:
        if name == "cluster_name":
            assert all(found[name].isna())
        elif wanted[name].dtype == np.float32:
            np.testing.assert_array_equal(found[name].astype(np.float32), wanted[name])
        else:
            assert list(found[name]) == list(wanted[name]), name


def test_write_image_table__names_and_metadata(own_run: Path, tmp_path: Path) -> None:
    past = PastRun.open(str(own_run))
    name_cluster(past.folder, epoch=0, cluster=2, name="Bälle, rund")

    write_image_table(past, tmp_path / "t.parquet", TableRequest(), epoch=0)

    frame = pd.read_parquet(tmp_path / "t.parquet")
    is_named = frame["cluster"] == 2
    assert set(frame["cluster_name"][is_named]) == {"Bälle, rund"}
    assert all(frame.loc[~is_named, "cluster_name"].isna())
    assert all(frame["stability"].isna()), "there is no epoch before"
    about = json.loads(pq.read_schema(tmp_path / "t.parquet").metadata[b"deepcluster"])
    assert set(about["labels"]) >= {"epoch", "key", "digest", "created"}


def test_write_image_table__chosen_columns(past: PastRun, tmp_path: Path) -> None:
    request = TableRequest(columns=("path", "cluster", "image"))
    write_image_table(past, tmp_path / "t.parquet", request)

    assert pq.read_schema(tmp_path / "t.parquet").names == ["path", "cluster", "image"]


def test_write_image_table__without_true_labels_has_no_empty_column(
    pictures: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        pictures,
        dataset="{source: SOURCE, labels: none, shorter_side: 16, channels: 1, encoding: raw}",
        epochs="1",
        compute="{device: cpu}",
    )
    deepcluster.run_epochs(recipe, tmp_path / "run", echo=False)
    past = PastRun.open(str(tmp_path / "run"))

    columns = write_image_table(past, tmp_path / "all.parquet", TableRequest()).columns
    chosen = TableRequest(columns=("path", "label"))
    write_image_table(past, tmp_path / "chosen.parquet", chosen)

    assert "label" not in columns
    assert {"path", "cluster", "x"} <= set(columns)
    assert pq.read_table(tmp_path / "chosen.parquet")["label"].null_count == NUM_IMAGES


@pytest.mark.parametrize(
    ("request_", "name", "said"),
    [
        (TableRequest(columns=("clutser",)), "t.csv", "there is no clutser"),
        (TableRequest(embedding=True), "t.csv", r"does not hold(.|\n)*--out t\.parquet"),
        (TableRequest(thumbnails=True), "t.h5ad", r"does not hold(.|\n)*--out t\.parquet"),
        (TableRequest(), "t.xlsx", "must end in"),
    ],
)
def test_write_image_table__refuses(
    request_: TableRequest,
    name: str,
    said: str,
    past: PastRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match=said):
        write_image_table(past, Path(name), request_)
    assert not list(tmp_path.iterdir())


def test_write_image_table__features_that_were_deleted(own_run: Path, tmp_path: Path) -> None:
    past = PastRun.open(str(own_run))
    shutil.rmtree(past.folder.artifact("features", 1))
    past = PastRun.open(str(own_run))
    out = tmp_path / "t.parquet"

    with pytest.raises(ArtifactError, match=r"stage extract(.|\n)*--without-features"):
        write_image_table(past, out, TableRequest())
    assert not list(tmp_path.glob("t.*"))
    written = write_image_table(past, out, TableRequest(without_features=True))

    assert written.columns == [
        *("image_id", "path", "cluster", "cluster_name", "distance", "stability", "label")
    ]
    write_image_table(past, tmp_path / "t.h5ad", TableRequest(without_features=True))
    assert import_module("anndata").read_h5ad(tmp_path / "t.h5ad").shape == (NUM_IMAGES, 0)


def test_write_image_table__several_clusterings(pictures: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "heads.yaml",
        pictures,
        epochs="0",
        cluster="{algorithm: spherical, k: [8, 5], pca_dim: none, whiten: false}",
    )
    run = deepcluster.run_epochs(recipe, tmp_path / "heads", echo=False)

    write_image_table(run.past, tmp_path / "t.parquet", TableRequest())

    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert list(frame.columns[:7]) == [
        *("image_id", "path", "cluster", "cluster_1", "cluster_name", "distance", "distance_1")
    ]
    assert set(frame["cluster_1"]) <= {*range(5)}


def test_run_table__is_the_same_frame(past: PastRun, table: Path) -> None:
    found = deepcluster.Run(past).table(columns=[*COLUMNS, "embedding"])

    wanted = pd.read_parquet(table, columns=[*COLUMNS, "embedding"])
    for name in COLUMNS:
        np.testing.assert_array_equal(found[name].fillna("none"), wanted[name].fillna("none"))
    np.testing.assert_array_equal(found["embedding"].iloc[5], wanted["embedding"].iloc[5])


def test_second_clusters__have_images(past: PastRun, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = ImageFacts.of(past, None)
    often = int(np.bincount(facts.second_clusters).argmax())
    cluster_N = facts.labels.cluster_N.copy()
    cluster_N[cluster_N == often] = (often + 1) % facts.labels.k
    emptied = replace(facts.labels, cluster_N=cluster_N)
    monkeypatch.setattr(RunImages, "labels_of", lambda *_: emptied)

    assert often not in ImageFacts.of(past, None).second_clusters
