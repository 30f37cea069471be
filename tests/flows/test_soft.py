"""Runs with soft targets, for which training reads the features that were clustered."""

from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from flows.stage_rerun import rerun
from tests.support.flow_runs import call, in_state, loop
from tests.support.recipes import EMBEDDINGS, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Path:
    return write_recipe(
        tmp_path_factory.mktemp("recipes") / "soft.yaml",
        tiny_images,
        **EMBEDDINGS,
        train="{batch_size: 32, lr: 0.005, balance: none, prototypes: {soft: true}}",
    )


def test_loop__trains_on_the_features_of_its_epoch_and_makes_them_again(
    recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    loop(recipe, run)

    for epoch in range(3):
        trained = read_manifest(run / f"checkpoints/epoch=000{epoch}")
        features = read_manifest(run / f"features/epoch=000{epoch}")
        assert trained.inputs["features"] == features.digest
    states = loop(recipe, run)
    assert in_state(states, "Cached") == set(states)
    assert inspect(run / "features/epoch=0001")[0] is Condition.PRUNED

    before = read_manifest(run / "checkpoints/epoch=0001").digest
    call(rerun, stage="train", run=str(run), epoch=1, force=True)
    assert read_manifest(run / "checkpoints/epoch=0001").digest == before
