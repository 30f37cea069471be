"""`deepcluster run --dry-run`: what would run, why and how long; and nothing is made."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.show.forecast import show_forecast
from stages.runs import many_images
from stages.runs.folder import RunFolder
from stages.runs.forecast import past_times, probe
from stages.runs.recipe import Recipe, load_recipe
from tests.support.run_files import contents

Forecast = Callable[..., str]


@pytest.fixture
def forecast(capsys: pytest.CaptureFixture[str]) -> Forecast:
    def printed(run: Path, recipe: Recipe, *, probes: bool = False) -> str:
        show_forecast(RunFolder(run), recipe, yes=False, probes=probes)
        return capsys.readouterr().out

    return printed


def test_dry_run__of_a_finished_run_is_all_cached(
    finished_run: Path, recipe: Path, forecast: Forecast
) -> None:
    text = forecast(finished_run, load_recipe(recipe))

    assert "epochs 0 to 2: extract, cluster, train, score: Cached" in text
    assert text.endswith("0 of 13 stages would run\n")


def test_dry_run__names_reasons_and_changes_nothing(
    own_run: Path, recipe: Path, forecast: Forecast
) -> None:
    shutil.rmtree(own_run / "labels/epoch=0001")
    before = contents(own_run)

    text = forecast(own_run, load_recipe(recipe, {"epochs": 5}))

    assert "epoch 0: extract, cluster, train, score: Cached" in text
    assert "epoch 1: cluster: runs, because it is not made yet" in text
    assert "epoch 1: train, score: runs, because an earlier stage does" in text
    assert "epochs 3 to 4: extract, cluster, train, score: runs, because it is not made yet" in text
    assert "needs about" in text
    assert "as measured in the epochs that this run has" in text
    assert contents(own_run) == before


def test_dry_run__changed_settings_are_a_reason(
    finished_run: Path, recipe: Path, forecast: Forecast
) -> None:
    text = forecast(finished_run, load_recipe(recipe, {"cluster": {"k": 4}}))

    assert "epoch 0: cluster: runs, because it was made from other inputs or settings" in text


def test_dry_run__new_run_takes_the_times_of_one_beside_it(
    finished_run: Path, recipe: Path, forecast: Forecast
) -> None:
    run = finished_run.parent / "new"

    text = forecast(run, load_recipe(recipe))

    assert "as measured in finished, a run beside it of the same network" in text
    assert not run.exists()


def test_dry_run__run_that_was_stopped_in_its_first_training_has_no_times(
    own_run: Path, recipe: Path, tmp_path: Path, forecast: Forecast
) -> None:
    for folder in ("checkpoints", "metrics", *(f"labels/epoch=000{epoch}" for epoch in (1, 2))):
        shutil.rmtree(own_run / folder)

    text = forecast(own_run, load_recipe(recipe))

    assert "train" in text.partition("runs, because it is not made yet")[0]
    assert "--probe measures a short one" in text


def test_dry_run__without_any_times_offers_a_probe(
    recipe: Path, tmp_path: Path, forecast: Forecast
) -> None:
    assert "--probe measures a short one" in forecast(tmp_path / "new", load_recipe(recipe))


def test_dry_run__advises_settings_for_many_images(
    recipe: Path, tmp_path: Path, forecast: Forecast, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = forecast(tmp_path / "new", load_recipe(recipe))
    monkeypatch.setattr(many_images, "MANY", 240)

    many = forecast(tmp_path / "new", load_recipe(recipe))

    assert "advice: " not in few
    assert "advice: cluster.paths: false saves about" in many
    assert "advice: extract.pca: {} stores" in many


def test_probe__measures_all_stages_and_leaves_nothing(recipe: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    loaded = load_recipe(recipe, {"compute": {"scratch": str(scratch)}})

    times = probe(loaded, images=240)

    assert set(times.seconds_per_row) == {"index", "extract", "cluster", "train", "score"}
    assert min(times.seconds_per_row.values()) > 0
    assert times.is_probe
    assert [*scratch.iterdir()] == []


def test_probe__of_a_clusterer_that_finds_the_number_of_clusters(
    recipe: Path, tmp_path: Path
) -> None:
    changes = {"compute": {"scratch": str(tmp_path)}, "cluster": {"algorithm": "pic", "k": "auto"}}

    assert "cluster" in probe(load_recipe(recipe, changes), images=240).seconds_per_row


def test_past_times__not_of_a_run_with_another_network(finished_run: Path, recipe: Path) -> None:
    other = load_recipe(recipe, {"network": {"dropout": 0.1}})

    assert past_times(RunFolder(finished_run.parent / "new"), other, 240) is None
