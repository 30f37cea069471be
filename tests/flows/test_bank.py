"""Runs whose training computes the embeddings that the next epoch clusters."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepcluster import open_run
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import centroids_of, read_metrics
from deepcluster_core.errors import ConfigError
from flows.show.page import write_page
from flows.show.takeaway import TableOptions, show_duplicates, show_picked, show_table_written
from flows.stage_rerun import rerun
from stages.runs.folder import RunFolder
from stages.runs.image_facts import OF_CROPS, ImageFacts
from stages.runs.inference import Clusters
from stages.runs.past_run import PastRun
from stages.runs.states import states_of
from tests.support.flow_runs import call, in_state, loop
from tests.support.look_server import serving_look
from tests.support.plain_runs import make_run
from tests.support.recipes import EMBEDDINGS, write_recipe
from tests.support.run_files import manifests


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Path:
    return write_recipe(
        tmp_path_factory.mktemp("recipes") / "bank.yaml",
        tiny_images,
        **EMBEDDINGS,
        train=(
            "{batch_size: 32, lr: 0.005, balance: none, prototypes: {bank: true}, average: 0.9, "
            "views: [{count: 2, size: 16, area: [0.3, 1.0]}]}"
        ),
    )


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of three epochs. The tests of this module may add to it."""
    folder = tmp_path_factory.mktemp("runs") / "bank"
    states = loop(recipe, folder)
    assert {name for name in states if name.startswith("extract")} == {"extract epoch 0"}
    return folder


def test_loop__checkpoint_is_the_features_of_the_next_epoch(run: Path) -> None:
    assert RunFolder(run).epochs("features") == [0]
    for epoch in (1, 2):
        labels = read_manifest(run / f"labels/epoch=000{epoch}")
        before = read_manifest(run / f"checkpoints/epoch=000{epoch - 1}")
        trained = read_manifest(run / f"checkpoints/epoch=000{epoch}")
        assert labels.inputs["features"] == before.digest == trained.inputs["features"]
    costs = [read_metrics(run / f"metrics/epoch=000{epoch}") for epoch in range(3)]
    assert costs[0]["extract_s"] > 0
    assert (costs[1]["extract_s"], costs[1]["extract_peak_bytes"]) == (0, None)
    assert costs[2]["train_s"] == read_manifest(run / "checkpoints/epoch=0002").seconds


def test_loop__again_finds_everything_and_nothing_is_stale(recipe: Path, run: Path) -> None:
    before = manifests(run)

    states = loop(recipe, run)

    assert in_state(states, "Cached") == set(states)
    assert manifests(run) == before
    conditions = {state.condition for state in states_of(RunFolder(run))}
    assert conditions <= {Condition.WHOLE, Condition.PRUNED}
    assert write_page(RunFolder(run)).is_file()


def test_clusters__of_a_bank_belong_to_the_weights_that_were_trained(run: Path) -> None:
    checkpoint = run / "checkpoints/epoch=0002"
    trained = load_file(checkpoint / "model.safetensors")
    average = load_file(checkpoint / "average.safetensors")
    past = PastRun.open(str(run))
    clusters = Clusters(3, run / "labels/epoch=0002", checkpoint, of_bank=True)

    used = clusters.network(past).state_dict()

    assert all(torch.equal(used[name], weight) for name, weight in trained.items())
    averaged = replace(clusters, of_bank=False).network(past).state_dict()
    assert all(torch.equal(averaged[name], weight) for name, weight in average.items())
    assert any(not torch.equal(average[name], trained[name]) for name in average)


def test_rerun__makes_a_pruned_bank_again(run: Path) -> None:
    assert inspect(run / "checkpoints/epoch=0000")[0] is Condition.PRUNED
    before = read_manifest(run / "labels/epoch=0001").digest

    call(rerun, stage="cluster", run=str(run), epoch=1, force=True)

    assert read_manifest(run / "labels/epoch=0001").digest == before


def test_rerun__later_epochs_have_no_extraction(run: Path) -> None:
    with pytest.raises(ConfigError, match="only epoch 0 extracts features"):
        rerun(stage="extract", run=str(run), epoch=2)


def test_features__of_a_later_epoch_are_those_that_training_computed(run: Path) -> None:
    call(rerun, stage="train", run=str(run), epoch=0, force=True)
    opened = open_run(run)

    features_ND = opened.features(1)

    num_images = len(opened.labels(1))
    assert features_ND.shape == (num_images, 2 * 12)  # two views
    facts = ImageFacts.of(opened.past, 1)
    first_view = features_ND[:, :12].astype(np.float32)
    lengths = np.linalg.norm(first_view, axis=1, keepdims=True)
    # What is clustered is float32, of length 1.
    np.testing.assert_allclose(facts.rows, first_view / lengths, atol=1e-6)
    own_N = facts.labels.cluster_N
    distance_NK = np.linalg.norm(
        facts.rows[:, None] - centroids_of(facts.past.whole("labels", 1))[0], axis=2
    )
    np.testing.assert_allclose(
        distance_NK[np.arange(num_images), own_N], facts.labels.distance_N, atol=1e-5
    )
    assert (facts.second_clusters == np.argsort(distance_NK, axis=1)[:, 1]).all()
    assert facts.stability is not None
    assert facts.outliers.shape == (num_images,)


@pytest.fixture(scope="module")
def kept_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two epochs that keeps all it compares. Shared: a test must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "kept"
    make_run(recipe, folder, epochs=2, overrides={"keep": {"checkpoints": 2, "features": 2}})
    return folder


def test_commands__say_that_they_compare_crops(
    kept_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(kept_run)

    def printed(command: str, epoch: int, columns: str | None = None) -> str:
        if command == "duplicates":
            show_duplicates(run, threshold=None, out=None, epoch=epoch, limit=1)
        elif command == "pick":
            show_picked(run, 5, out=None, epoch=epoch, seed=None, limit=1)
        else:
            options = TableOptions(
                columns, embedding=False, thumbnails=False, without_features=False, layout="pca"
            )
            show_table_written(run, tmp_path / f"{columns}{epoch}.csv", epoch, options)
        return capsys.readouterr().out

    for command, columns in (
        ("duplicates", None),
        ("pick", None),
        ("table", None),
        ("table", "path,nearest"),
    ):
        assert OF_CROPS in printed(command, 1, columns), (command, columns)
        assert OF_CROPS not in printed(command, 0, columns), "extract wrote those of whole images"
    assert OF_CROPS not in printed("table", 1, "path,cluster"), "compares no features"


def test_look__says_that_similar_images_are_found_by_crops(kept_run: Path, tmp_path: Path) -> None:
    with serving_look(kept_run, tmp_path) as served, served.client() as client:
        last, first = (client.get(f"/epoch/{epoch}/image/5").text for epoch in (1, 0))

    assert f"These are {OF_CROPS}." in last
    assert "Most similar images" in first
    assert OF_CROPS not in first
