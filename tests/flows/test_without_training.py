"""Runs with `epochs: 0`: the clusters of a network as it begins, or of features from a file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import deepcluster
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.errors import ConfigError
from flows.evaluate import evaluate
from flows.show.diff import show_diff
from flows.show.farewell import farewell
from flows.show.page import write_page
from flows.show.run import show_run
from flows.stage_rerun import rerun
from stages.runs.export import export
from stages.runs.folder import RunFolder
from stages.runs.new_images import assign, embed
from tests.support.flow_runs import call, in_state, loop, tasks
from tests.support.plain_runs import make_run
from tests.support.run_files import artifact_contents

UNTRAINED = {"index", "extract epoch 0", "cluster epoch 0", "score epoch 0"}


@pytest.fixture(scope="module")
def untrained(prefect_server: str, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with `epochs: 0`. Shared: a test must not change it."""
    run = tmp_path_factory.mktemp("untrained") / "run"
    assert loop(recipe, run, epochs=0) == dict.fromkeys(UNTRAINED, "Completed")
    return run


def rows_of(run: Path) -> np.ndarray:
    return np.concatenate(list(Features(run / "features/epoch=0000").blocks()))


def test_deepcluster__no_epochs_give_clusters_and_their_scores(untrained: Path) -> None:
    assert not (untrained / "checkpoints").exists()
    metrics = pd.read_parquet(untrained / "metrics")
    assert metrics.loc[0, "nmi_labels"] > 0
    assert metrics.loc[0, "cluster_s"] > 0
    assert metrics[["loss", "train_s", "nmi_previous"]].isna().to_numpy().all()
    assert (untrained / "report.html").exists()
    assert (untrained / "overview.png").exists()


@pytest.mark.slow
def test_deepcluster__training_later_goes_on_from_the_clusters_without_training(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    run = tmp_path / "run"
    loop(recipe, run, epochs=0)
    before = artifact_contents(run)

    states = loop(recipe, run, epochs=1)

    assert in_state(states, "Cached") == {"index", "extract epoch 0", "cluster epoch 0"}
    assert in_state(states, "Completed") == {"train epoch 0", "score epoch 0"}
    after = artifact_contents(run)
    kept = {name: at for name, at in before.items() if not str(name).startswith("metrics")}
    assert kept.items() <= after.items()
    assert pd.read_parquet(run / "metrics").loc[0, "loss"] > 0
    with pytest.raises(ConfigError, match=r"trained epoch 0 already.*\n  Fix: .*--run"):
        loop(recipe, run, epochs=0)


@pytest.mark.slow
def test_deepcluster__trained_epochs_are_the_same_with_and_without_the_stop(
    recipe: Path, tmp_path: Path, finished_run: Path
) -> None:
    run = tmp_path / "run"
    loop(recipe, run, epochs=0)
    loop(recipe, run, epochs=1)

    for kind in ("features", "labels", "checkpoints"):
        name = f"{kind}/epoch=0000"
        assert read_manifest(run / name).key == read_manifest(finished_run / name).key
        assert read_manifest(run / name).digest == read_manifest(finished_run / name).digest


def test_show_run__without_training(
    untrained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    show_run(RunFolder(untrained), None)

    printed = capsys.readouterr().out
    assert "0 epochs asked for" in printed
    assert "stale" not in printed
    assert "missing" not in printed
    folder = RunFolder(untrained)
    features = folder.artifact("features", 0)
    bye = farewell(folder, epochs=0, features=features, seconds=0.2)
    assert "clusters of the network as it begins, in 0.2 s" in bye
    assert "epoch=0000/features.zarr" in bye


def test_write_page__without_training(untrained: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    write_page(RunFolder(untrained), clusters=3, out=page)

    text = page.read_text()
    assert "Nothing was trained: the recipe has epochs: 0." in text
    assert "epochs are scored so far" not in text


def test_export__without_training_gives_the_network_that_was_clustered(
    untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(str(untrained), format="safetensors", out=Path("network.safetensors"))

    assert "the network as it begins" in capsys.readouterr().out
    written = load_file("network.safetensors")
    own = deepcluster.open_run(untrained).network().backbone.state_dict()
    assert written.keys() == own.keys()
    assert all(torch.equal(written[name], own[name]) for name in own)


def test_assign_and_embed__without_training_are_those_of_the_run(
    untrained: Path, tiny_images: Path
) -> None:
    assign(str(untrained), tiny_images, out=Path("labels.parquet"))
    embed(str(untrained), tiny_images, out=Path("features.parquet"))

    wanted = pd.read_parquet(untrained / "labels/epoch=0000/labels.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet("labels.parquet"), wanted, check_exact=True)
    features = np.stack(list(pd.read_parquet("features.parquet")["feature"]))
    np.testing.assert_array_equal(features.astype(np.float16), rows_of(untrained))


def test_diff__of_one_epoch_without_training_wants_another_run(
    untrained: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_diff(str(untrained), str(finished_run), from_epoch=None, to_epoch=0, out=None, limit=5)

    assert "240" in capsys.readouterr().out


def test_rerun__stages_of_a_run_without_training(untrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    call(
        rerun,
        stage="cluster",
        run=str(untrained),
        epoch=0,
        overrides={"cluster": {"k": 5}},
        out=str(out),
    )
    assert read_manifest(out).facts["k"] == 5
    with pytest.raises(ConfigError, match="epochs: 0, which trains nothing"):
        call(rerun, stage="train", run=str(untrained), epoch=0)


def test_evaluate__without_training_scores_the_network_as_it_begins(
    untrained: Path, tmp_path: Path
) -> None:
    for name in ("knn", "nmi"):
        out = tmp_path / name
        overrides = {"ks": [1]} if name == "knn" else None
        call(evaluate, name=name, run=str(untrained), out=str(out), overrides=overrides)
        assert read_manifest(out).epoch == 0
    assert set(pd.read_parquet(tmp_path / "knn/results.parquet")["network"]) == {"random"}


def save_given(run: Path, path: Path) -> Path:
    """Save the features of a run as those of another model: the same, times two."""
    np.save(path, 2 * rows_of(run))
    return path


def test_deepcluster__features_of_another_model(
    untrained: Path, recipe: Path, tmp_path: Path
) -> None:
    given = save_given(untrained, tmp_path / "given.npy")
    run = tmp_path / "run"

    make_run(recipe, run, epochs=0, overrides={"extract": {"from": str(given)}})

    np.testing.assert_array_equal(rows_of(run), 2 * rows_of(untrained))
    moved = given.rename(tmp_path / "moved.npy")
    before = artifact_contents(run)
    make_run(recipe, run, epochs=0, overrides={"extract": {"from": str(moved)}})
    assert artifact_contents(run) == before, "contents count, not names"
    np.save(moved, 3 * rows_of(untrained))
    with pytest.raises(ConfigError, match=r"Changed: the contents of extract\.from"):
        make_run(recipe, run, epochs=0, overrides={"extract": {"from": str(moved)}})


@pytest.mark.slow
def test_deepcluster__features_of_another_model_have_no_network(
    untrained: Path, recipe: Path, tmp_path: Path, tiny_images: Path
) -> None:
    given = save_given(untrained, tmp_path / "given.npy")
    run = tmp_path / "run"
    loop(recipe, run, epochs=0, overrides={"extract": {"from": str(given)}})

    with pytest.raises(ConfigError, match=r"no network of its own.*\n  Fix: "):
        export(str(run), format="safetensors", out=tmp_path / "network.safetensors")
    with pytest.raises(ConfigError, match=r"no network of its own.*\n  Fix: "):
        assign(str(run), tiny_images, out=tmp_path / "labels.parquet")
    with pytest.raises(ConfigError, match=r"from a file, extract\.from\.\n  Fix: "):
        call(evaluate, name="knn", run=str(run))
    call(evaluate, name="nmi", run=str(run))
    assert tasks(0) - UNTRAINED == {"train epoch 0"}
