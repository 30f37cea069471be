"""The same run for several k. What does not depend on k lies in each run, and is made once."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from deepcluster_core.artifacts.commit import UNFINISHED, prune
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.errors import ConfigError, SourceError
from flows.evaluate import evaluate
from flows.show.results import show_by_value
from flows.stage_rerun import rerun
from flows.sweep import sweep
from stages.evaluations.shared.results import read_results
from stages.runs.recipe import RecipeOverrides
from tests.support.flow_runs import (
    SWEPT_EPOCHS,
    in_state,
    loop,
    states_of_run,
    swept,
    tasks,
)
from tests.support.plain_runs import make_run
from tests.support.recipes import write_recipe
from tests.support.run_files import artifact_contents, contents, made_since, manifests

COMMON = ("images", "features/epoch=0000")


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_sweep__makes_once_what_does_not_depend_on_k(finished_sweep: Path) -> None:
    for name in COMMON:
        for file in read_manifest(finished_sweep / name).files:
            names = [folder / name / file for folder in (finished_sweep, *runs_of(finished_sweep))]
            assert len({path.stat().st_ino for path in names}) == 1, "one file, three names"


def runs_of(root: Path, names: str = "k=*") -> list[Path]:
    return sorted(root.glob(names))


def test_sweep__its_runs_are_those_that_the_loop_would_have_made(
    recipe: Path, finished_sweep: Path, tmp_path: Path
) -> None:
    swept_run = finished_sweep / "k=00004"
    make_run(recipe, tmp_path / "alone", epochs=SWEPT_EPOCHS, overrides={"cluster": {"k": 4}})

    alone, found = manifests(tmp_path / "alone"), manifests(swept_run)
    assert set(found) == set(alone)
    for name, made in alone.items():  # metrics hold the seconds that the stages took
        assert found[name].digest == made.digest or name.startswith("metrics/"), name
        assert inspect(swept_run / name)[0] is inspect(tmp_path / "alone" / name)[0]
    assert (swept_run / "config.yaml").read_bytes() == (tmp_path / "alone/config.yaml").read_bytes()


@pytest.mark.slow
def test_sweep__the_loop_goes_on_with_one_of_its_runs(recipe: Path, own_sweep: Path) -> None:
    states = loop(recipe, own_sweep / "k=00004", epochs=3, overrides={"cluster": {"k": 4}})

    assert in_state(states, "Cached") == {"index"} | tasks(0, 1)
    assert in_state(states, "Completed") == tasks(2)


def test_sweep__second_call_makes_nothing(
    recipe: Path, own_sweep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def made() -> dict[str, tuple[int, str]]:
        written_by_any_run = (".lock", "config.yaml", "overview.png", "report.html")
        found = contents(own_sweep).items()
        return {name: at for name, at in found if not name.endswith(written_by_any_run)}

    before = made()
    caplog.clear()

    swept(recipe, own_sweep, 4, 8)

    assert made() == before, "not even a time of change may differ"
    assert "made once for all runs" not in caplog.text
    assert {"sweep.parquet", "sweep.png"} <= set(before)


@pytest.mark.slow
def test_sweep__another_k_runs_alone(recipe: Path, own_sweep: Path) -> None:
    for run in runs_of(own_sweep):
        prune(run / "features/epoch=0000")
    before = manifests(own_sweep)

    swept(recipe, own_sweep, 4, 6, 8)

    made = made_since(before, own_sweep)
    assert made
    assert all(name.startswith("k=00006/") for name in made)
    assert states_of_run("own/k=00006")["extract epoch 0"] == "Cached"
    assert list(pd.read_parquet(own_sweep / "sweep.parquet")["k"].unique()) == [4, 6, 8]


@pytest.mark.slow
def test_sweep__each_run_outlives_what_happens_to_the_others(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    root = swept(recipe, tmp_path / "sweep", 4, 8, epochs=1)
    pruned, kept = runs_of(root)
    before = artifact_contents(kept)

    prune(pruned / "features/epoch=0000")
    rerun("index", run=str(pruned), force=True)
    for name in COMMON:
        shutil.rmtree(root / name)

    assert artifact_contents(kept) == before
    moved = kept.rename(tmp_path / "moved")
    again = loop(recipe, moved, epochs=1, overrides={"cluster": {"k": 8}})
    assert set(again.values()) == {"Cached"}


@pytest.mark.slow
def test_sweep__goes_on_where_sharing_was_cut_short(recipe: Path, own_sweep: Path) -> None:
    """As if killed after some files had their second names, but not the manifest."""
    cut_short = own_sweep / "k=00004"
    digests = {name: made.digest for name, made in manifests(cut_short).items()}
    for name in COMMON:
        (cut_short / name / "_manifest.json").unlink()
        (cut_short / name / UNFINISHED).touch()
        files_of(cut_short / name)[-1].unlink()
    (cut_short / "images/pixels/part-00001.arrow").touch()

    swept(recipe, own_sweep, 4, 8)

    for name in COMMON:
        assert inspect(cut_short / name)[0] is Condition.WHOLE
        assert not (cut_short / name / UNFINISHED).exists()
    assert not (cut_short / "images/pixels/part-00001.arrow").exists()
    assert {name: made.digest for name, made in manifests(cut_short).items()} == digests


@pytest.mark.slow
def test_sweep__other_settings_are_made_again_in_all_runs(recipe: Path, own_sweep: Path) -> None:
    before = manifests(own_sweep)

    swept(recipe, own_sweep, 4, 8, changes={"dataset": {"subset": 200}}, update=True)

    assert made_since(before, own_sweep) == set(before)
    assert set(pd.read_parquet(own_sweep / "sweep.parquet")["images"]) == {200}


@pytest.mark.slow
def test_sweep__other_settings_replace_nothing_unless_asked(recipe: Path, own_sweep: Path) -> None:
    before = artifact_contents(own_sweep)

    with pytest.raises(ConfigError, match=r"own/images: was made from other images or with other"):
        swept(recipe, own_sweep, 6, changes={"dataset": {"shorter_side": 20}})

    assert artifact_contents(own_sweep) == before


def test_sweep__copies_where_a_file_cannot_have_two_names(
    recipe: Path, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: Path, file: Path) -> None:
        raise OSError(f"no links from {name} to {file} on this file system")

    monkeypatch.setattr(Path, "hardlink_to", refuse)

    root = swept(recipe, tmp_path / "sweep", 4, epochs=1)

    for name in COMMON:
        shared, own = files_of(root / name), files_of(root / "k=00004" / name)
        assert [path.read_bytes() for path in shared] == [path.read_bytes() for path in own]
        assert {path.stat().st_nlink for path in own} == {1}
        made = read_manifest(root / "k=00004" / name).files
        times = {file: (root / "k=00004" / name / file).stat().st_mtime_ns for file in made}
        assert times == {file: record.mtime_ns for file, record in made.items()}


@pytest.mark.slow
def test_sweep__images_that_the_recipe_shares_stay_where_they_are(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    shared = {"images": str(tmp_path / "images")}

    root = swept(recipe, tmp_path / "sweep", 4, 8, epochs=1, changes=shared)

    assert inspect(tmp_path / "images")[0] is Condition.WHOLE
    assert not list(root.rglob("images"))


@pytest.mark.slow
def test_sweep__packed_images_outlive_their_source(
    tiny_images: Path, tmp_path: Path, prefect_server: str
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "source")
    recipe = write_recipe(tmp_path / "own.yaml", source)
    root = swept(recipe, tmp_path / "sweep", 4, epochs=1)
    shutil.rmtree(source)

    swept(recipe, root, 4, 8, epochs=1)

    assert inspect(root / "k=00008/metrics/epoch=0000")[0] is Condition.WHOLE
    with pytest.raises(ConfigError, match=r"--k 241: more clusters than the 240 images"):
        swept(recipe, root, 241, epochs=1)
    with pytest.raises(SourceError, match="does not exist"):
        swept(recipe, tmp_path / "another", 4, epochs=1)


def swept_rates(recipe: Path, root: Path) -> None:
    over: dict[str, list[Any]] = {"train.lr": [0.1, 0.01]}
    sweep(over=over, recipe=str(recipe), run=str(root), epochs=1)


@pytest.mark.slow
def test_sweep__over_another_key(recipe: Path, tmp_path: Path) -> None:
    root = tmp_path / "rates"

    swept_rates(recipe, root)

    runs = [root / "train.lr=0.01", root / "train.lr=0.1"]
    for name in ("images", "features/epoch=0000", "labels/epoch=0000"):
        keys = {read_manifest(folder / name).key for folder in (root, *runs)}
        assert len(keys) == 1, "made once: it does not depend on the learning rate"
    losses = [read_metrics(run / "metrics/epoch=0000")["loss"] for run in runs]
    table = pd.read_parquet(root / "sweep.parquet")
    assert list(table.columns[:2]) == ["train.lr", "epoch"]
    assert table["train.lr"].tolist() == [0.01, 0.1]
    assert table["loss"].tolist() == losses
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_sweep__over_another_key_goes_on_and_shows_evaluations(
    recipe: Path, tmp_path: Path
) -> None:
    root = tmp_path / "rates"
    swept_rates(recipe, root)
    few = {"images": 40, "views": 2, "precision": "float32"}
    evaluate(name="rank", run=str(root), overrides=few)

    table = pd.read_parquet(root / "sweep.parquet")
    for at, run in enumerate(runs_of(root, "train.lr=*")):
        random, trained = read_results(run / "evaluations/rank/epoch=0000")
        assert table["rank lidar"][at] == trained["lidar"]
        assert table["rank lidar random"][at] == random["lidar"]
    with Image.open(root / "sweep.png") as picture:
        assert picture.height < 0.7 * picture.width, "no panel for what is not in percent"
    before = contents(root / "train.lr=0.1")
    swept_rates(recipe, root)
    made = contents(root / "train.lr=0.1")
    changed = {name for name, at in made.items() if before.get(name) != at}
    assert not any(name.startswith(("labels", "checkpoints", "metrics")) for name in changed)


@pytest.mark.slow
def test_sweep__over_the_seed_shares_nothing(recipe: Path, tmp_path: Path) -> None:
    sweep(over={"seed": [1, 2]}, recipe=str(recipe), run=str(tmp_path / "seeds"), epochs=1)

    table = pd.read_parquet(tmp_path / "seeds/sweep.parquet")
    assert table["seed"].tolist() == [1, 2]
    assert len(set(table["loss"])) == 2
    assert not (tmp_path / "seeds/images").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "values"), [("seed", [1, 2]), ("network.sobel", [True, False])], ids=["seed", "network"]
)
def test_sweep__evaluations_of_runs_that_differ_in_more_than_training_are_compared(
    key: str,
    values: list[Any],
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    colours = RecipeOverrides.model_validate({"dataset": {"channels": 3}})
    sweep(
        over={key: values}, recipe=str(recipe), run=str(tmp_path / "s"), epochs=1, overrides=colours
    )
    evaluate(name="knn", run=str(tmp_path / "s"), overrides={"ks": [5]})

    table = pd.read_parquet(tmp_path / "s/sweep.parquet")
    random = table["knn top1 of 5 neighbours random"]
    assert table["knn top1 of 5 neighbours"].notna().to_numpy().all()
    capsys.readouterr()
    show_by_value(tmp_path / "s", "knn", None)
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if "random" in line]
    assert float(shown[0][1]) == pytest.approx(random.mean(), abs=0.006)
