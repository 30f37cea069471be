import shutil
from pathlib import Path

import pandas as pd
import pytest

from deepcluster_core.artifacts.manifest import Condition, inspect
from deepcluster_core.errors import ConfigError, FeatureError, SourceError
from tests.support.flow_runs import KEEP_ALL, in_state, loop, tasks
from tests.support.plain_runs import make_run
from tests.support.recipes import write_recipe
from tests.support.run_files import artifact_contents, made_since, manifests

MAIN_FILES = {
    "images": "index.parquet",
    "features/epoch=0002": "features.zarr/c/0/0",
    "labels/epoch=0001": "labels.parquet",
    "checkpoints/epoch=0001": "model.safetensors",
    "metrics/epoch=0001": "metrics.parquet",
}
MAKERS = {
    "images": "index",
    "features/epoch=0002": "extract epoch 2",
    "labels/epoch=0001": "cluster epoch 1",
    "checkpoints/epoch=0001": "train epoch 1",
    "metrics/epoch=0001": "score epoch 1",
}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_deepcluster__second_run_is_cached_throughout(recipe: Path, own_run: Path) -> None:
    before = artifact_contents(own_run)

    states = loop(recipe, own_run, overrides=KEEP_ALL)

    assert in_state(states, "Cached") == {"index"} | tasks(0, 1, 2) == set(states)
    assert artifact_contents(own_run) == before, "not even a time of change may differ"


@pytest.mark.parametrize(
    "artifact",
    [
        "images",
        "labels/epoch=0001",
        pytest.param("features/epoch=0002", marks=pytest.mark.slow),
        pytest.param("checkpoints/epoch=0001", marks=pytest.mark.slow),
        pytest.param("metrics/epoch=0001", marks=pytest.mark.slow),
    ],
)
def test_deepcluster__deleted_artifact_is_made_again_alone(
    artifact: str, recipe: Path, own_run: Path
) -> None:
    before = manifests(own_run)
    shutil.rmtree(own_run / artifact)

    states = loop(recipe, own_run, overrides=KEEP_ALL)

    assert in_state(states, "Completed") == {MAKERS[artifact]}
    assert in_state(states, "Cached") == ({"index"} | tasks(0, 1, 2)) - {MAKERS[artifact]}
    assert made_since(before, own_run) == {artifact}


@pytest.mark.parametrize(
    "artifact",
    [
        "features/epoch=0002",
        pytest.param("labels/epoch=0001", marks=pytest.mark.slow),
        pytest.param("images", marks=pytest.mark.slow),
        pytest.param("checkpoints/epoch=0001", marks=pytest.mark.slow),
        pytest.param("metrics/epoch=0001", marks=pytest.mark.slow),
    ],
)
def test_deepcluster__damaged_artifact_is_made_again_alone(
    artifact: str, recipe: Path, own_run: Path
) -> None:
    before = manifests(own_run)
    flip_a_byte(own_run / artifact / MAIN_FILES[artifact])

    states = loop(recipe, own_run, overrides=KEEP_ALL)

    assert in_state(states, "Completed") == {MAKERS[artifact]}
    assert made_since(before, own_run) == {artifact}
    assert inspect(own_run / artifact)[0] is Condition.WHOLE


def test_deepcluster__without_prefects_records_nothing_is_made_again(
    recipe: Path, own_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = artifact_contents(own_run)
    shutil.rmtree(own_run / ".prefect")

    loop(recipe, own_run, overrides=KEEP_ALL)
    assert "every stage Cached (13 of 13)" in caplog.text
    again = loop(recipe, own_run, overrides=KEEP_ALL)

    assert artifact_contents(own_run) == before
    assert set(again.values()) == {"Cached"}


def test_deepcluster__same_seed_same_bytes_whatever_the_workers(
    recipe: Path, finished_run: Path, tmp_path: Path
) -> None:
    make_run(recipe, tmp_path / "run", overrides=KEEP_ALL | {"compute": {"workers": 1}})

    found = {name: made.digest for name, made in manifests(tmp_path / "run").items()}
    expected = {name: made.digest for name, made in manifests(finished_run).items()}
    for name, digest in expected.items():  # metrics hold the seconds that the stages took
        assert found[name] == digest or name.startswith("metrics/"), name


def test_deepcluster__another_seed_gives_other_labels(
    recipe: Path, finished_run: Path, tmp_path: Path
) -> None:
    make_run(recipe, tmp_path / "run", epochs=1, overrides={"seed": 32})

    for kind in ("features", "labels", "checkpoints"):
        name = f"{kind}/epoch=0000"
        assert manifests(tmp_path / "run")[name].digest != manifests(finished_run)[name].digest


def test_deepcluster__more_epochs_go_on_where_the_run_ended(recipe: Path, own_run: Path) -> None:
    states = loop(recipe, own_run, epochs=4, overrides=KEEP_ALL)

    assert in_state(states, "Cached") == {"index"} | tasks(0, 1, 2)
    assert in_state(states, "Completed") == tasks(3)


def test_deepcluster__another_k_reruns_what_depends_on_it(recipe: Path, own_run: Path) -> None:
    another = KEEP_ALL | {"cluster": {"k": 9}}
    states = loop(recipe, own_run, epochs=2, overrides=another, update=True)

    assert in_state(states, "Cached") == {"index", "extract epoch 0"}
    assert in_state(states, "Completed") == tasks(0, 1) - {"extract epoch 0"}


def test_deepcluster__features_of_old_epochs_are_deleted_and_still_count(
    recipe: Path, own_run: Path
) -> None:
    states = loop(recipe, own_run, overrides={"keep": {"features": 1}})

    features = [own_run / "features" / f"epoch={epoch:04d}" for epoch in range(3)]
    conditions = [inspect(folder)[0] for folder in features]
    assert conditions == [Condition.PRUNED, Condition.PRUNED, Condition.WHOLE]
    assert [path.name for path in features[0].iterdir()] == ["_manifest.json"]
    assert set(states.values()) == {"Cached"}
    assert set(loop(recipe, own_run, overrides={"keep": {"features": 1}}).values()) == {"Cached"}


def test_deepcluster__pruned_features_are_made_again_for_the_stage_that_needs_them(
    recipe: Path, own_run: Path
) -> None:
    keep_one = {"keep": {"features": 1}}
    make_run(recipe, own_run, overrides=keep_one)
    before = manifests(own_run)
    shutil.rmtree(own_run / "labels/epoch=0000")

    make_run(recipe, own_run, overrides=keep_one)

    assert made_since(before, own_run) == {"features/epoch=0000", "labels/epoch=0000"}
    digests = {name: made.digest for name, made in manifests(own_run).items()}
    assert digests == {name: made.digest for name, made in before.items()}
    assert inspect(own_run / "features/epoch=0000")[0] is Condition.PRUNED


@pytest.mark.slow
def test_deepcluster__packed_images_outlive_their_source(
    tiny_images: Path, tmp_path: Path, prefect_server: str
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "source")
    recipe, run = write_recipe(tmp_path / "own.yaml", source), tmp_path / "run"
    loop(recipe, run, epochs=1)
    shutil.rmtree(source)

    states = loop(recipe, run, epochs=2)

    assert in_state(states, "Cached") == {"index"} | tasks(0)
    assert in_state(states, "Completed") == tasks(1)
    with pytest.raises(SourceError, match="does not exist"):
        loop(recipe, tmp_path / "another", epochs=1)


@pytest.mark.slow
def test_deepcluster__added_image_is_indexed_when_asked_for(
    tiny_images: Path, tmp_path: Path, prefect_server: str
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "source")
    recipe, run = write_recipe(tmp_path / "own.yaml", source), tmp_path / "run"
    loop(recipe, run, epochs=1)
    shutil.copy(source / "disc" / "000.png", source / "disc" / "new.png")
    with pytest.raises(ConfigError, match=r"source: its files have changed since .*\n.*--update"):
        loop(recipe, run, epochs=1)

    states = loop(recipe, run, epochs=1, update=True)

    assert in_state(states, "Completed") == {"index"} | tasks(0)
    assert {made.rows for name, made in manifests(run).items() if "metrics" not in name} == {241}


def test_deepcluster__too_few_images_for_k_are_refused_before_a_folder_is_made(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    with pytest.raises(FeatureError, match=r"cluster\.k: 241 needs at least 241 images"):
        loop(recipe, tmp_path / "run", overrides={"cluster": {"k": 241}})

    assert not (tmp_path / "run").exists()


def test_deepcluster__tables_of_all_epochs_are_read_at_once(finished_run: Path) -> None:
    labels = pd.read_parquet(finished_run / "labels")
    metrics = pd.read_parquet(finished_run / "metrics")

    assert labels.groupby("epoch")["image_id"].nunique().to_dict() == {0: 240, 1: 240, 2: 240}
    assert list(metrics["epoch"]) == [0, 1, 2]
    assert metrics["nmi_previous"].isna().tolist() == [True, False, False]
