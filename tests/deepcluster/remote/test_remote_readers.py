"""A run on an object store, read by programs that know nothing of this one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from pyarrow import dataset, fs
from zarr.storage import ObjectStore

import deepcluster
from tests.support.object_stores import ACCESS_KEY, SECRET_KEY
from tests.support.remote_runs import Machine
from tests.support.store_proxy import StoreProxy

duckdb = pytest.importorskip("duckdb")


@pytest.fixture
def published(here: Callable[[str], Machine], url: str, recipe: Path) -> str:
    """Return the URL of a run of two epochs whose last features are kept."""
    here("first")
    deepcluster.run_epochs(recipe, url, echo=False)
    return url


@pytest.fixture
def files(proxy: StoreProxy) -> fs.S3FileSystem:
    """Return pyarrow's own client of the store."""
    return fs.S3FileSystem(
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        region="us-east-1",
        scheme="http",
        endpoint_override=proxy.address.removeprefix("http://"),
    )


@pytest.mark.slow
def test_pandas__reads_the_labels_of_all_epochs(
    published: str, files: fs.S3FileSystem, local_run: Path
) -> None:
    place = published.removeprefix("s3://")
    found = pd.read_parquet(f"{place}/labels", filesystem=files)
    expected = pd.read_parquet(local_run / "labels")
    pd.testing.assert_frame_equal(found, expected)
    metrics = pd.read_parquet(f"{place}/metrics", filesystem=files)
    assert sorted(metrics["epoch"].astype(int)) == [0, 1]


@pytest.mark.slow
def test_duckdb__queries_the_labels(published: str, files: fs.S3FileSystem) -> None:
    # Its own extension for S3 is downloaded when it is first used, so pyarrow reads for it.
    labels: Any = dataset.dataset(
        f"{published.removeprefix('s3://')}/labels", filesystem=files, partitioning="hive"
    )
    assert labels.count_rows() == 2 * 240
    rows = duckdb.sql("select epoch, count(*) from labels group by epoch order by epoch").fetchall()
    assert rows == [(0, 240), (1, 240)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # zarr calls its ObjectStore experimental
def test_zarr__opens_the_features(published: str, local_run: Path) -> None:
    from obstore.store import S3Store  # noqa: PLC0415  an extra

    features = "features/epoch=0001/features.zarr"
    store = ObjectStore(
        S3Store.from_url(f"{published}/{features}", client_options={"allow_http": True}),
        read_only=True,
    )
    found: Any = zarr.open_array(store, mode="r")
    expected: Any = zarr.open_array(local_run / features, mode="r")
    assert found.shards == expected.shards
    assert np.array_equal(found[:], expected[:])
