"""Whether files still belong to the run that they were made from."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from deepcluster_core.artifacts.manifest import MANIFEST
from deepcluster_core.errors import ArtifactError, ConfigError
from stages.runs.cluster_names import name_cluster
from stages.runs.outputs.image_table import TableRequest, write_image_table
from stages.runs.outputs.origin import belonging
from stages.runs.past_run import PastRun
from tests.support.labelled_runs import replace_labels

ONLY_LABELS = TableRequest(columns=("image_id", "path", "cluster", "cluster_name"))


@pytest.fixture(params=["t.parquet", "t.csv", "t.h5ad"])
def file(own_run: Path, request: pytest.FixtureRequest) -> Path:
    """Return a table beside the folder of runs."""
    out = own_run.parent.parent / request.param
    write_image_table(PastRun.open(str(own_run)), out, ONLY_LABELS, epoch=0)
    return out


def test_belonging__of_a_fresh_table(file: Path, own_run: Path) -> None:
    found = belonging(file)

    assert found.run.root == own_run
    assert found.artifacts == ["labels of epoch 0"]
    assert not found.names_changed


def test_belonging__names_that_changed(file: Path, own_run: Path) -> None:
    name_cluster(PastRun.open(str(own_run)).folder, epoch=1, cluster=0, name="discs")
    name_cluster(PastRun.open(str(own_run)).folder, epoch=0, cluster=0, name="discs")

    assert belonging(file).names_changed


def test_belonging__labels_that_were_replaced(file: Path, own_run: Path) -> None:
    past = PastRun.open(str(own_run))
    replace_labels(past.folder, 0, pd.read_parquet(own_run / "labels")["cluster"].to_numpy()[:9])

    with pytest.raises(ArtifactError, match=r"is stale(.|\n)*Fix: make the file again"):
        belonging(file)


def test_belonging__labels_that_are_missing(file: Path, own_run: Path) -> None:
    (own_run / "labels" / "epoch=0000" / MANIFEST).unlink()

    with pytest.raises(ArtifactError, match=r"which are unfinished(.|\n)*Fix:"):
        belonging(file)


def test_belonging__run_and_file_moved_together(file: Path, own_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(own_run.parent, moved / "runs")
    for path in file.parent.glob("t.*"):
        shutil.move(path, moved)

    assert belonging(moved / file.name).run.root == moved / "runs" / "own"


def test_belonging__file_moved_alone(file: Path, own_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "far" / "away"
    moved.mkdir(parents=True)
    for path in file.parent.glob("t.*"):
        shutil.move(path, moved)

    assert belonging(moved / file.name).run.root == own_run


def test_belonging__run_moved_alone(file: Path, own_run: Path, tmp_path: Path) -> None:
    moved = shutil.move(own_run, tmp_path / "other")

    with pytest.raises(ArtifactError, match=r"its run own is not found(.|\n)*--run RUN"):
        belonging(file)
    assert belonging(file, str(moved)).artifacts
    with pytest.raises(ConfigError):
        belonging(file, str(tmp_path / "nowhere"))


def test_belonging__a_run_is_not_a_file_made_from_one(own_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a run(.|\n)*Fix: `deepcluster show "):
        belonging(own_run)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npy", "t.zarr", "t.txt", "t.h5ad"])
def test_belonging__files_of_others(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(ArtifactError, match=r"is not there(.|\n)*Fix:"):
        belonging(path)
    path.write_text("a,b\n1,2\n")

    with pytest.raises(ArtifactError, match=r"does not say(.|\n)*Fix:"):
        belonging(path)


def test_belonging__metadata_of_another_shape(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n")
    for about in ([], {"labels": 3}, {"labels": {"epoch": 0}, "run_folder": 4}):
        (tmp_path / "t.about.json").write_text(json.dumps({"deepcluster": about}))
        with pytest.raises(ArtifactError, match="Fix:"):
            belonging(tmp_path / "t.csv")
