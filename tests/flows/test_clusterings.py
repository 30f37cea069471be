"""Whole runs with other clusterings than the paper's: what flows from stage to stage."""

from pathlib import Path

import pytest

from deepcluster_core.artifacts.tables import read_labels, read_metrics
from deepcluster_core.errors import ConfigError
from tests.support.flow_runs import in_state, loop, tasks
from tests.support.plain_runs import make_run
from tests.support.run_files import manifests

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.slow
def test_deepcluster__pic_decides_the_number_of_clusters(recipe: Path, tmp_path: Path) -> None:
    overrides = {"cluster": {"algorithm": "pic", "k": "auto"}}

    make_run(recipe, tmp_path / "run", epochs=2, overrides=overrides)

    found = manifests(tmp_path / "run")
    for epoch in (0, 1):
        k = read_labels(tmp_path / "run" / "labels" / f"epoch={epoch:04d}").k
        metrics = read_metrics(tmp_path / "run" / "metrics" / f"epoch={epoch:04d}")
        trained = found[f"checkpoints/epoch={epoch:04d}"].facts["k"]
        assert 2 <= k == metrics["k"] == trained <= 120


@pytest.mark.slow
def test_deepcluster__warm_start_reads_the_labels_before_and_nothing_else_changes(
    recipe: Path, own_run: Path
) -> None:
    cold = manifests(own_run)

    states = loop(recipe, own_run, overrides={"cluster": {"warm_start": True}}, update=True)

    warm = manifests(own_run)
    assert in_state(states, "Cached") >= {"index", "extract epoch 0"}
    assert tasks(1, 2) - {"extract epoch 1"} <= in_state(states, "Completed")
    assert "previous" not in warm["labels/epoch=0000"].inputs
    assert warm["labels/epoch=0000"].digest == cold["labels/epoch=0000"].digest
    assert warm["labels/epoch=0001"].inputs["previous"] == warm["labels/epoch=0000"].digest
    moved = [read_metrics(own_run / "metrics" / f"epoch={e:04d}")["moved_fraction"] for e in (1, 2)]
    assert all(0 <= share < 1 for share in moved)
    assert "previous" not in cold["labels/epoch=0001"].inputs


def test_deepcluster__a_clusterer_that_is_not_there_is_told_before_anything_starts(
    recipe: Path, tmp_path: Path
) -> None:
    overrides = {"cluster": {"algorithm": "python:nowhere:make"}}

    with pytest.raises(ConfigError, match="the module nowhere does not exist"):
        make_run(recipe, tmp_path / "run", epochs=1, overrides=overrides)

    assert not (tmp_path / "run" / "images").exists()
