import shutil
from pathlib import Path
from typing import Any

import pytest

from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_labels
from deepcluster_core.errors import ArtifactError, ConfigError, SourceError
from flows.stage_rerun import rerun
from stages.runs.stage_request import check_stage_request
from tests.support.flow_runs import KEEP_ALL, call, in_state, loop
from tests.support.plain_runs import make_run
from tests.support.recipes import write_recipe
from tests.support.run_files import artifact_contents, made_since, manifests


@pytest.mark.parametrize(
    ("stage", "epoch", "task"),
    [("index", None, "index"), ("extract", 0, "extract epoch 0"), ("score", 2, "score epoch 2")],
)
def test_rerun__of_what_is_there_is_cached(
    stage: str, epoch: int | None, task: str, own_run: Path
) -> None:
    before = artifact_contents(own_run)

    states = call(rerun, stage=stage, run=str(own_run), epoch=epoch)

    assert states == {task: "Cached"}
    assert artifact_contents(own_run) == before


def test_rerun__forced_runs_and_the_loop_finds_the_same_contents(
    recipe: Path, own_run: Path
) -> None:
    before = manifests(own_run)

    states = call(rerun, stage="train", run=str(own_run), epoch=0, force=True)

    assert states == {"train epoch 0": "Completed"}
    assert made_since(before, own_run) == {"checkpoints/epoch=0000"}
    again = loop(recipe, own_run, overrides=KEEP_ALL)
    assert in_state(again, "Cached") == set(again)


def test_rerun__changed_settings_go_to_a_folder_of_their_own(own_run: Path, tmp_path: Path) -> None:
    before, config = artifact_contents(own_run), (own_run / "config.yaml").read_bytes()
    out = tmp_path / "k5"
    changed: dict[str, Any] = {
        "stage": "cluster",
        "run": str(own_run),
        "epoch": 1,
        "overrides": {"cluster": {"k": 5}},
        "out": str(out),
    }

    first, second = call(rerun, **changed), call(rerun, **changed)

    assert (first, second) == ({"cluster epoch 1": "Completed"}, {"cluster epoch 1": "Cached"})
    assert read_labels(out).k == 5
    assert artifact_contents(own_run) == before
    assert (own_run / "config.yaml").read_bytes() == config


def test_rerun__makes_pruned_features_again(recipe: Path, own_run: Path) -> None:
    make_run(recipe, own_run, overrides={"keep": {"features": 1}})
    features = own_run / "features/epoch=0000"
    assert inspect(features)[0] is Condition.PRUNED

    states = call(rerun, stage="extract", run=str(own_run), epoch=0)

    assert states == {"extract epoch 0": "Completed"}
    assert inspect(features)[0] is Condition.WHOLE


@pytest.mark.parametrize("condition", [Condition.MISSING, Condition.DAMAGED])
def test_rerun__names_an_input_that_is_not_there_and_the_way_out(
    condition: Condition, own_run: Path, tmp_path: Path
) -> None:
    features = own_run / "features/epoch=0002"
    if condition is Condition.MISSING:
        shutil.rmtree(features)
    else:
        (features / "features.zarr/zarr.json").write_text("{}")

    with pytest.raises(ArtifactError) as caught:
        rerun("cluster", run=str(own_run), epoch=2, out=str(tmp_path / "out"))

    told = str(caught.value)
    assert f"{features}: is needed as an input, but is {condition}" in told
    assert f"Fix: deepcluster stage extract --run {own_run} --epoch 2" in told
    call(rerun, stage="extract", run=str(own_run), epoch=2)
    states = call(rerun, stage="cluster", run=str(own_run), epoch=2, out=str(tmp_path / "out"))
    assert states == {"cluster epoch 2": "Completed"}


def test_rerun__forced_without_its_source_keeps_the_packed_images(
    tiny_images: Path, tmp_path: Path, prefect_server: str
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "source")
    run = tmp_path / "run"
    make_run(write_recipe(tmp_path / "own.yaml", source), run, epochs=1)
    shutil.rmtree(source)

    with pytest.raises(SourceError, match="does not exist"):
        rerun("index", run=str(run), force=True)

    assert inspect(run / "images")[0] is Condition.WHOLE
    assert read_manifest(run / "images").rows == 240


def test_rerun__of_no_run_lists_the_runs_there_are(finished_run: Path, prefect_server: str) -> None:
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(finished_run)

    with pytest.raises(ConfigError, match="Here are: runs/mine"):
        rerun("score", run="absent", epoch=0)


def test_check_stage_request__refuses_an_unknown_stage() -> None:
    with pytest.raises(ConfigError, match="choose from index, extract, cluster, train, score"):
        check_stage_request("trian", 0, changed=False, out=None)


def test_check_stage_request__asks_for_the_epoch_of_all_stages_but_index() -> None:
    assert check_stage_request("index", None, changed=False, out=None) == "index"
    with pytest.raises(ConfigError, match="stage index belongs to no epoch"):
        check_stage_request("index", 0, changed=False, out=None)
    for stage in ("extract", "cluster", "train", "score"):
        with pytest.raises(ConfigError, match=f"stage {stage} needs --epoch"):
            check_stage_request(stage, None, changed=False, out=None)


def test_check_stage_request__refuses_changed_settings_in_the_runs_own_place() -> None:
    assert check_stage_request("cluster", 1, changed=True, out="elsewhere") == "cluster"
    with pytest.raises(ConfigError, match="--out DIR"):
        check_stage_request("cluster", 1, changed=True, out=None)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"epoch": 3}, r"--epoch 3: the run has epochs 0 to 2\..*--epochs 4"),
        ({"epoch": 0, "out": "{run}/images"}, "lies in the run itself"),
        ({"epoch": 0, "out": "{run}/config.yaml/x"}, "lies in the run itself"),
        ({"epoch": 0, "out": "file/x"}, "cannot be made a folder"),
        (
            {"epoch": 0, "out": "elsewhere", "overrides": {"train": {"lr": 0.1}}},
            "train: stage cluster does not read it",
        ),
    ],
    ids=str,
)
def test_rerun__refuses_what_cannot_be_meant_and_loses_nothing(
    asked: dict[str, Any], told: str, own_run: Path, prefect_server: str
) -> None:
    before = artifact_contents(own_run)
    Path("file").touch()
    if "out" in asked:
        asked = asked | {"out": asked["out"].format(run=own_run)}

    with pytest.raises(ConfigError, match=f"(?s){told}"):
        rerun(stage="cluster", run=str(own_run), **asked)

    assert artifact_contents(own_run) == before


def test_rerun__deletes_again_what_it_made_on_the_way(recipe: Path, own_run: Path) -> None:
    make_run(recipe, own_run, overrides={"keep": {"features": 1}})
    assert inspect(own_run / "features/epoch=0000")[0] is Condition.PRUNED

    call(rerun, stage="cluster", run=str(own_run), epoch=0, force=True)

    assert inspect(own_run / "features/epoch=0000")[0] is Condition.PRUNED
