"""The same run for several k. What does not depend on k lies in each run, and is made once."""

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

from deepcluster_core.artifacts.commit import UNFINISHED, prune
from deepcluster_core.artifacts.manifest import Condition, inspect, read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.errors import ConfigError, FeatureError, SourceError
from flows.cli.main import main
from flows.evaluate import evaluate
from flows.show.sweep_picture import draw_sweep
from flows.stage_rerun import rerun
from flows.sweep import sweep
from stages.evaluations.shared.results import read_results
from stages.runs.recipe import RecipeOverrides
from tests.support.flow_runs import SWEPT_EPOCHS, call, in_state, loop, recorded_tasks, tasks
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.recipes import write_recipe
from tests.support.run_files import artifact_contents, contents, made_since, manifests
from tests.support.timeouts import WITHIN_S

COMMON = ("images", "features/epoch=0000")


def swept(
    recipe: Path,
    root: Path,
    *ks: int,
    epochs: int = SWEPT_EPOCHS,
    changes: dict[str, Any] | None = None,
    update: bool = False,
) -> Path:
    overrides = None if changes is None else RecipeOverrides.model_validate(changes)
    return Path(
        sweep(
            list(ks),
            str(recipe),
            run=str(root),
            epochs=epochs,
            overrides=overrides,
            update=update,
        )
    )


def states_of_run(name: str) -> dict[str, str]:
    """Return the states of the tasks of the last run of a flow with this name."""
    named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=named)
        return recorded_tasks(client, max(found, key=lambda run: str(run.created)).id)


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_sweep__makes_once_what_does_not_depend_on_k(finished_sweep: Path) -> None:
    for k in (4, 8):
        states = states_of_run(f"finished/k={k:05d}")
        assert in_state(states, "Cached") == {"index", "extract epoch 0"}
        assert in_state(states, "Completed") == tasks(0, 1) - {"extract epoch 0"}
    for name in COMMON:
        for file in read_manifest(finished_sweep / name).files:
            names = [folder / name / file for folder in (finished_sweep, *runs_of(finished_sweep))]
            assert len({path.stat().st_ino for path in names}) == 1, "one file, three names"


def runs_of(root: Path) -> list[Path]:
    return sorted(root.glob("k=*"))


def test_sweep__its_runs_are_those_that_the_loop_would_have_made(
    recipe: Path, finished_sweep: Path, tmp_path: Path
) -> None:
    swept_run = finished_sweep / "k=00004"
    loop(recipe, tmp_path / "alone", epochs=SWEPT_EPOCHS, overrides={"cluster": {"k": 4}})

    alone, found = manifests(tmp_path / "alone"), manifests(swept_run)
    assert set(found) == set(alone)
    for name, made in alone.items():  # metrics hold the seconds that the stages took
        assert found[name].digest == made.digest or name.startswith("metrics/"), name
        assert inspect(swept_run / name)[0] is inspect(tmp_path / "alone" / name)[0]
    assert (swept_run / "config.yaml").read_bytes() == (tmp_path / "alone/config.yaml").read_bytes()


def test_sweep__the_loop_goes_on_with_one_of_its_runs(recipe: Path, own_sweep: Path) -> None:
    states = loop(recipe, own_sweep / "k=00004", epochs=3, overrides={"cluster": {"k": 4}})

    assert in_state(states, "Cached") == {"index"} | tasks(0, 1)
    assert in_state(states, "Completed") == tasks(2)


def test_sweep__second_call_makes_nothing(recipe: Path, own_sweep: Path) -> None:
    def made() -> dict[str, tuple[int, str]]:
        written_by_any_run = (".lock", "config.yaml", "overview.png", "report.html")
        found = contents(own_sweep).items()
        return {name: at for name, at in found if not name.endswith(written_by_any_run)}

    before = made()

    swept(recipe, own_sweep, 4, 8)

    assert made() == before, "not even a time of change may differ"
    assert {"sweep.parquet", "sweep.png"} <= set(before)


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


def test_sweep__compares_what_was_asked_for(recipe: Path, own_sweep: Path) -> None:
    before = artifact_contents(own_sweep / "k=00008")

    swept(recipe, own_sweep, 4)

    assert list(pd.read_parquet(own_sweep / "sweep.parquet")["k"].unique()) == [4]
    assert artifact_contents(own_sweep / "k=00008") == before


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


def test_sweep__deletes_nobodys_files(recipe: Path, tmp_path: Path, prefect_server: str) -> None:
    own = tmp_path / "sweep/k=00004/images/notes.txt"
    own.parent.mkdir(parents=True)
    own.touch()

    with pytest.raises(Exception, match="files that no stage made"):
        swept(recipe, tmp_path / "sweep", 4, epochs=1)

    assert own.exists()


@pytest.mark.slow
def test_sweep__other_settings_are_made_again_in_all_runs(recipe: Path, own_sweep: Path) -> None:
    before = manifests(own_sweep)

    swept(recipe, own_sweep, 4, 8, changes={"dataset": {"subset": 200}}, update=True)

    assert made_since(before, own_sweep) == set(before)
    assert set(pd.read_parquet(own_sweep / "sweep.parquet")["images"]) == {200}


@pytest.mark.slow
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


def test_sweep__refuses_every_k_beyond_the_images_before_a_folder_is_made(
    recipe: Path, tmp_path: Path, prefect_server: str
) -> None:
    with pytest.raises(ConfigError, match=r"--k 241,1000: more clusters than the 240 images"):
        swept(recipe, tmp_path / "sweep", 4, 1000, 241)
    with pytest.raises(FeatureError, match=r"cluster\.pca_dim: 8 needs at least 9 images"):
        swept(recipe, tmp_path / "sweep", 4, changes={"dataset": {"subset": 8}})

    assert not (tmp_path / "sweep").exists()


def test_sweep__counts_only_images_that_can_be_read(
    tiny_images: Path, tmp_path: Path, prefect_server: str
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "source")
    (source / "disc/000.png").write_bytes(b"")
    recipe = write_recipe(tmp_path / "own.yaml", source)

    with pytest.raises(ConfigError, match=r"--k 240: more clusters than the 239 images"):
        swept(recipe, tmp_path / "sweep", 4, 240)

    assert runs_of(tmp_path / "sweep") == [tmp_path / "sweep/k=00004", tmp_path / "sweep/k=00240"]
    assert not list((tmp_path / "sweep").rglob("labels")), "not even the first k has begun"


def test_sweep__table_has_the_metrics_and_seconds_of_each_k_and_epoch(finished_sweep: Path) -> None:
    table = pd.read_parquet(finished_sweep / "sweep.parquet")

    assert list(zip(table["k"], table["epoch"], strict=True)) == [(4, 0), (4, 1), (8, 0), (8, 1)]
    for row in table.to_dict("records"):
        run = finished_sweep / f"k={row['k']:05d}"
        own = pd.read_parquet(run / f"metrics/epoch={row['epoch']:04d}/metrics.parquet").iloc[0]
        for name, value in own.items():
            assert row[str(name)] == pytest.approx(value, nan_ok=True)
        kinds = ("features", "labels", "checkpoints", "metrics")
        made = [read_manifest(run / kind / f"epoch={row['epoch']:04d}") for kind in kinds]
        assert row["seconds"] == pytest.approx(sum(manifest.seconds for manifest in made))
    schema = pq.read_schema(finished_sweep / "sweep.parquet")
    assert str(schema.field("k").type) == str(schema.field("epoch").type) == "int64"


@pytest.mark.slow
def test_sweep__damaged_table_is_made_again(recipe: Path, own_sweep: Path) -> None:
    before = (own_sweep / "sweep.parquet").read_bytes()
    (own_sweep / "sweep.parquet").write_bytes(before[:-1])
    (own_sweep / "sweep.png").unlink()

    swept(recipe, own_sweep, 4, 8)

    assert (own_sweep / "sweep.parquet").read_bytes() == before
    with Image.open(own_sweep / "sweep.png") as picture:
        assert picture.width > 1000


@pytest.mark.slow
def test_sweep__without_true_labels(recipe: Path, tmp_path: Path, prefect_server: str) -> None:
    unlabelled = {"dataset": {"labels": "none"}}

    root = swept(recipe, tmp_path / "sweep", 4, changes=unlabelled)

    table = pd.read_parquet(root / "sweep.parquet")
    assert table.dropna(subset=["nmi_labels"]).empty
    assert str(pq.read_schema(root / "sweep.parquet").field("nmi_labels").type) == "double"


def test_draw_sweep__of_one_epoch_and_one_k_about_which_little_is_known() -> None:
    columns = ("loss", "ln_k", "effective_clusters")
    known = {"k": 4, "epoch": 0, "empty_clusters": 0} | dict.fromkeys(columns, 1.0)
    table = pd.DataFrame([known | {"nmi_labels": np.nan, "nmi_previous": np.nan}])
    drawn = io.BytesIO()

    draw_sweep(table, pd.DataFrame(columns=["result"]), drawn)

    with Image.open(drawn) as picture:
        assert picture.format == "PNG"


@pytest.mark.slow
def test_sweep_command__prints_the_comparison(
    recipe: Path, own_sweep: Path, prefect_server: str
) -> None:
    done = subprocess.run(
        [PROGRAM, "sweep", recipe, "--k", "8,4", "--run", own_sweep, "--epochs", str(SWEPT_EPOCHS)],
        env=ENVIRONMENT | {"PREFECT_API_URL": prefect_server},
        text=True,
        capture_output=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines.count("every stage Cached (9 of 9)") == 2
    assert "all runs exist and are compared already: nothing was made" in lines
    compared = lines[lines.index(f"{own_sweep}: after {SWEPT_EPOCHS} epochs") :]
    assert [line.split()[0] for line in compared[4:6]] == ["4", "8"]


def test_show_command__of_a_sweep_is_its_comparison(
    finished_sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), "show", str(finished_sweep)])

    with pytest.raises(SystemExit, match="0"):
        main()

    assert f"{finished_sweep}: after {SWEPT_EPOCHS} epochs" in capsys.readouterr().out


@pytest.mark.parametrize("ks", ["1,8", "8,x", "8,8", ""])
def test_sweep_command__refuses_wrong_k_with_exit_code_2(
    ks: str, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), "sweep", str(recipe), "--k", ks])

    with pytest.raises(SystemExit) as caught:
        main()

    captured = capsys.readouterr()
    assert (caught.value.code, captured.out) == (2, "")
    assert captured.err.startswith("deepcluster: --k")
    assert not list(Path().iterdir()), "nothing is created"


def test_evaluate__nmi_of_a_sweep_has_a_row_for_each_k_and_epoch(own_sweep: Path) -> None:
    first = call(evaluate, name="nmi", run=str(own_sweep))
    again = call(evaluate, name="nmi", run=str(own_sweep))

    assert (first, again) == ({"nmi epoch 1": "Completed"}, {"nmi epoch 1": "Cached"})
    rows = read_results(own_sweep / "evaluations/nmi/epoch=0001")
    assert [(row["k"], row["epoch"]) for row in rows] == [(4, 0), (4, 1), (8, 0), (8, 1)]
    of_8 = read_metrics(own_sweep / "k=00008/metrics/epoch=0001")
    assert rows[-1]["nmi_labels"] == of_8["nmi_labels"]
    assert (own_sweep / "evaluations/nmi/epoch=0001/nmi.png").exists()


def test_sweep__over_another_key(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "rates"
    asked: dict[str, Any] = {"recipe": str(recipe), "run": str(root), "epochs": 1}

    sweep(over={"train.lr": [0.1, 0.01]}, **asked)

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

    few = {"images": 40, "views": 2, "precision": "float32"}
    evaluate(name="rank", run=str(root), overrides=few)

    table = pd.read_parquet(root / "sweep.parquet")
    for at, run in enumerate(runs):
        random, trained = read_results(run / "evaluations/rank/epoch=0000")
        assert table["rank lidar"][at] == trained["lidar"]
        assert table["rank lidar random"][at] == random["lidar"]
    shown = capsys.readouterr().out
    with Image.open(root / "sweep.png") as picture:
        assert picture.height < 0.7 * picture.width, "no panel for what is not in percent"
    before = contents(root / "train.lr=0.1")
    sweep(over={"train.lr": [0.1, 0.01]}, **asked)
    made = contents(root / "train.lr=0.1")
    changed = {name for name, at in made.items() if before.get(name) != at}
    assert not any(name.startswith(("labels", "checkpoints", "metrics")) for name in changed), shown


def test_sweep__over_the_seed_shares_nothing(recipe: Path, tmp_path: Path) -> None:
    sweep(over={"seed": [1, 2]}, recipe=str(recipe), run=str(tmp_path / "seeds"), epochs=1)

    table = pd.read_parquet(tmp_path / "seeds/sweep.parquet")
    assert table["seed"].tolist() == [1, 2]
    assert len(set(table["loss"])) == 2
    assert not (tmp_path / "seeds/images").exists()


def test_sweep__needs_k_or_another_key(recipe: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"k": [4], "over": {"seed": [1]}},
        {"over": {"seed": [1], "train.lr": [1]}},
    ]
    for given in wrong:
        with pytest.raises(ConfigError, match="either k or over"):
            sweep(recipe=str(recipe), run=str(tmp_path / "none"), **given)
