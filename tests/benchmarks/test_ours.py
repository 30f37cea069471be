from pathlib import Path
from typing import Any

import pytest

from benchmarks import ours
from benchmarks.baseline_sides import learning
from benchmarks.digits import write_digits
from benchmarks.ours import Clock, Pipeline
from benchmarks.workload import RECIPE
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest

Prepared = tuple[str, dict[str, Any], str]


@pytest.fixture(params=["raw"])
def prepared(overrides: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest) -> Prepared:
    """Return recipe, overrides and folder of a run that has come to epoch 1."""
    packed = overrides | {"dataset": overrides["dataset"] | {"encoding": request.param}}
    arguments = (RECIPE, packed, str(tmp_path / "run"))
    ours.prepare(*arguments)
    return arguments


def test_prepare__makes_what_epoch_1_reads(prepared: Prepared) -> None:
    pipeline = Pipeline(*prepared)

    for kind in ("features", "labels", "checkpoints"):
        assert inspect(pipeline.folder.artifact(kind, 0))[0] is Condition.WHOLE
    assert read_manifest(pipeline.folder.artifact("checkpoints", 0)).rows == 16


def test_epoch__runs_whole_stages_and_can_be_repeated(prepared: Prepared) -> None:
    first, second = ours.epoch(*prepared), ours.epoch(*prepared)

    assert first.keys() == second.keys()
    stages = [first[f"{stage}_s"] for stage in ("extract", "cluster", "train", "score")]
    assert 0 < sum(stages) <= first["seconds"]
    assert Pipeline(*prepared).folder.epochs("features") == [0], "only what was prepared is left"


@pytest.mark.parametrize("prepared", ["raw", "grey"], indirect=True)
def test_steps__in_memory_and_loaded_are_as_many(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, overrides, run = prepared
    monkeypatch.setattr(ours, "num_cores", lambda: 1)  # 3 batches ahead
    more = overrides | {"train": {**overrides["train"], "reassign_every": 4}}

    for side in (ours.loaded_steps, ours.steps_in_memory, ours.loading_alone):
        found = side(recipe, more, run)
        assert found["images_per_s"] > 0


def test_clock__leaves_out_the_ends() -> None:
    clock = Clock()
    clock.ticks = [(0.0, 10), (5.0, 20), (6.0, 30), (7.0, 40), (7.1, 50)]

    assert clock.images_per_s(first=1, last=1) == 10


@pytest.mark.slow
def test_learning__both_sides_see_the_same_digits(tmp_path: Path) -> None:
    count = write_digits(tmp_path / "digits", every=100)
    overrides = {
        "epochs": 1,
        "dataset": {"source": str(tmp_path / "digits")},
        "cluster": {"k": 10, "pca_dim": 8},
        "train": {"batch_size": 16},
    }
    recipe = str(Path(RECIPE).with_name("demo.yaml"))

    sides = [
        learning(recipe, overrides, workers=0),
        ours.learning(recipe, overrides, str(tmp_path / "run")),
    ]

    assert count == 100
    for found in sides:
        assert 0 < found["nmi_labels"] < 1
        assert found["neighbours"] > 0.3, "far above the 0.1 of chance"
        assert found["loss"] > 0


def test_clustering__runs_the_stage_on_an_artifact(tmp_path: Path) -> None:
    ours.write_random_run(str(tmp_path), count=600, dim=512)

    found = ours.clustering(str(tmp_path), k=10)

    assert found["seconds"] > 0
    assert read_manifest(tmp_path / "features" / "epoch=0000").rows == 600
