"""A run that is started again with other settings."""

import fcntl
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Running

from deepcluster_core.artifacts.commit import write_manifest
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.errors import ConfigError
from flows.prefect_.crashed_runs import ALIVE
from tests.support.flow_runs import KEEP_ALL, loop
from tests.support.plain_runs import make_run
from tests.support.run_files import artifact_contents


def test_deepcluster__other_settings_are_refused_and_named(recipe: Path, own_run: Path) -> None:
    before, config = artifact_contents(own_run), (own_run / "config.yaml").read_bytes()

    with pytest.raises(ConfigError) as refused:
        loop(recipe, own_run, overrides=KEEP_ALL | {"cluster": {"k": 9}, "train": {"lr": 0.1}})

    said = str(refused.value)
    assert "cluster.k 8 -> 9, train.lr 0.05 -> 0.1" in said
    # The first features are of no label, so they stay.
    assert "2 features, 3 labels, 3 checkpoints, 3 metrics" in said
    assert "--update" in said
    assert artifact_contents(own_run) == before
    assert (own_run / "config.yaml").read_bytes() == config


def test_deepcluster__what_changes_no_artifact_is_no_change(recipe: Path, own_run: Path) -> None:
    others = {"keep": {"checkpoints": 9, "features": None}, "compute": {"save_every_s": 7.0}}

    assert set(loop(recipe, own_run, overrides=others).values()) == {"Cached"}


def test_deepcluster__other_images_are_a_change(recipe: Path, own_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset.shorter_side 16 -> 20[\s\S]*1 images"):
        loop(recipe, own_run, overrides=KEEP_ALL | {"dataset": {"shorter_side": 20}})


def test_deepcluster__run_that_has_made_nothing_takes_any_settings(
    recipe: Path, own_run: Path, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_bytes((own_run / "config.yaml").read_bytes())

    make_run(recipe, begun, epochs=1, overrides={"cluster": {"k": 9}})

    assert read_manifest(begun / "labels/epoch=0000").config["cluster"]["k"] == 9


def test_deepcluster__artifacts_of_an_earlier_version_are_replaced_only_if_asked(
    recipe: Path, own_run: Path
) -> None:
    labels = own_run / "labels/epoch=0001"
    made = read_manifest(labels)
    write_manifest(labels, made.model_copy(update={"version": made.version - 1, "key": "0" * 64}))
    before = artifact_contents(own_run)

    with pytest.raises(ConfigError, match=r"an earlier version[\s\S]*: 1 labels\.[\s\S]*--update"):
        loop(recipe, own_run, overrides=KEEP_ALL)

    assert artifact_contents(own_run) == before
    states = loop(recipe, own_run, overrides=KEEP_ALL, update=True)
    assert states["cluster epoch 1"] == "Completed"


@flow
def never_ends() -> None:
    """Stands for a flow of which only its record is of interest."""


def test_deepcluster__flow_run_of_a_dead_process_is_marked_crashed(
    recipe: Path, own_run: Path
) -> None:
    with get_client(sync_client=True) as client:
        dead, living = (client.create_flow_run(never_ends, state=Running()).id for _ in range(2))
        alive = own_run / ".prefect" / ALIVE
        alive.mkdir(exist_ok=True)
        (alive / str(dead)).touch()
        with (alive / str(living)).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            loop(recipe, own_run, overrides=KEEP_ALL)

        states = [client.read_flow_run(run).state for run in (dead, living)]
    assert [state and state.type.value for state in states] == ["CRASHED", "RUNNING"]
    assert not (alive / str(dead)).exists()


def test_deepcluster__images_that_another_recipe_has_packed_are_replaced_only_if_asked(
    recipe: Path, tmp_path: Path
) -> None:
    shared = {"images": str(tmp_path / "packed")}
    loop(recipe, tmp_path / "a", epochs=1, overrides=shared)
    before = artifact_contents(tmp_path / "packed")
    larger = shared | {"seed": 5, "dataset": {"shorter_side": 20}}

    with pytest.raises(ConfigError) as refused:
        loop(recipe, tmp_path / "b", epochs=1, overrides=larger)

    assert "seed 31 -> 5" in str(refused.value)
    assert "dataset.shorter_side 16 -> 20" in str(refused.value)
    assert artifact_contents(tmp_path / "packed") == before
    loop(recipe, tmp_path / "c", epochs=1, overrides=shared)
    assert artifact_contents(tmp_path / "packed") == before
    loop(recipe, tmp_path / "b", epochs=1, overrides=larger, update=True)
    assert artifact_contents(tmp_path / "packed") != before
