"""Commands on a run that lies on an object store, on a machine that has nothing of it yet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import zarr

from deepcluster_core.artifacts.remote.transfer import push_run
from deepcluster_core.progress import silent
from flows.evaluate import evaluate
from flows.show.takeaway import show_duplicates
from stages.evaluations.shared.results import read_results
from stages.runs.locate import run_folder_of
from stages.runs.new_images import assign, embed
from tests.support.object_stores import BUCKET, ObjectStoreServer
from tests.support.stored_images import reached


@pytest.fixture
def url(
    seaweedfs_server: ObjectStoreServer,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Yield the URL of a copy of the finished run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"s3://{BUCKET}/commands/{uuid4().hex[:12]}"
    with reached(seaweedfs_server.endpoint):
        push_run(finished_run, url, silent)
        yield url


def test_assign__of_a_run_on_a_store(url: str, finished_run: Path, tiny_images: Path) -> None:
    assign(url, tiny_images / "disc", out=Path("there.parquet"))
    assign(str(finished_run), tiny_images / "disc", out=Path("here.parquet"))

    found, expected = pd.read_parquet("there.parquet"), pd.read_parquet("here.parquet")
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_embed__of_a_run_on_a_store(url: str, finished_run: Path, tiny_images: Path) -> None:
    embed(url, tiny_images / "disc", out=Path("there.zarr"))
    embed(str(finished_run), tiny_images / "disc", out=Path("here.zarr"))

    found, expected = (zarr.open_array(name, mode="r")[:] for name in ("there.zarr", "here.zarr"))
    assert np.array_equal(found, expected)


def test_duplicates__of_a_run_on_a_store(url: str, finished_run: Path) -> None:
    for run, out in ((url, "there.parquet"), (str(finished_run), "here.parquet")):
        show_duplicates(
            run_folder_of(Path(run)), threshold=0.99, out=Path(out), epoch=None, limit=10
        )

    found, expected = pd.read_parquet("there.parquet"), pd.read_parquet("here.parquet")
    assert len(expected) > 0
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_evaluate__with_other_images_of_a_run_on_a_store(
    url: str, own_run: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(run: str) -> list[dict[str, Any]]:
        evaluate(name="knn", run=run, data=str(tiny_images))
        (results,) = Path(run_folder_of(Path(run))).glob("evaluations/knn/epoch=*")
        return read_results(results)

    expected = judged(str(own_run))

    assert judged(url) == expected
    # Another machine finds the packed images and the results.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert judged(url) == expected
