"""The benchmark of quality on tiny data, in this process."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quality, quality_sides
from benchmarks.harness import BenchmarkError, Runs, Side
from benchmarks.ingredients import Setting, ingredients
from benchmarks.ours import Pipeline
from benchmarks.quality_table import kendall_taus, quality_table
from tests.support.labelled_pictures import NUM_PICTURES

KNOWN = ingredients(Setting(network="smallnet", image_size=32, channels=3, num_images=100))
RECIPE = """
dataset: {source: ., shorter_side: 32, encoding: raw}
network: {name: smallnet, image_size: 32}
extract: {resize: 32}
cluster: {k: auto, pca_dim: auto}
train: {batch_size: 16}
"""


@pytest.fixture
def arguments(labelled: Path, tmp_path: Path) -> dict[str, Any]:
    """Return the arguments of a side, whose images are packed."""
    overrides = {
        "dataset": {"source": str(labelled), "shorter_side": 32},
        "network": {"image_size": 32},
        "extract": {"resize": 32, "precision": "float32"},
        "train": {"batch_size": 16, "precision": "float32", "reassign_every": 1.0},
        "images": str(tmp_path / "images"),
    }
    found: dict[str, Any] = {"recipe": str(quality.RECIPE), "overrides": overrides}
    facts = quality_sides.packed(**found, run=str(tmp_path / "packing"))
    assert facts["images"] == NUM_PICTURES
    return found


def test_pixels__recognise_what_hardly_changes(arguments: dict[str, Any]) -> None:
    found = quality_sides.pixels(arguments["overrides"]["images"])

    assert found["neighbours_object"] > 0.9
    assert found["linear_object"] > 0.9
    assert found["accuracy_object"] > 0.7


@pytest.mark.slow
def test_loop__trains_until_the_time_is_up(arguments: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"

    before = quality_sides.untrained(**arguments, run=str(tmp_path / "random"))
    found = quality_sides.loop(**arguments, run=str(run), minutes=0)

    assert found["epochs"] == 1, "time that is up lets the first epoch end"
    assert found["epoch_s"] == found["seconds"] > 0
    assert 1 <= found["effective_rank"]
    measures = {f"{name}_{task}" for name in ("neighbours", "nmi") for task in ("object", "class")}
    assert measures | {"neighbours_object_middle"} <= before.keys() & found.keys()
    assert found["loss"] > 0
    assert not run.exists(), "the figures are all that stays"


@pytest.mark.slow
def test_run_until__continues_while_there_is_time(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    overrides = arguments["overrides"] | {"epochs": 5}
    pipeline = Pipeline(arguments["recipe"], overrides, str(tmp_path / "run"))

    class ThreeLooks:
        looks = 0

        @property
        def is_up(self) -> bool:
            self.looks += 1
            return self.looks == 3

    assert quality_sides.run_until(ThreeLooks(), pipeline) == 3  # pyright: ignore[reportArgumentType]
    assert pipeline.folder.epochs("metrics") == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_main__writes_figures_of_each_side(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)

    given = ["--data", str(labelled), "--minutes", "0.001", "--seeds", "0", "1", "--only", "v1"]
    quality.main([*given, "--recipe", str(recipe), "--json", str(out), "--scratch", str(tmp_path)])

    record = json.loads(out.read_text())
    assert {"pixels", "random", "v1"} <= record["summary"].keys()
    assert len(record["summary"]["v1"]["neighbours_object"]["values"]) == 2
    assert [row[0] for row in record["table"]["rows"]][-1] == "`v1`"
    assert record["settings"]["images"] == NUM_PICTURES
    assert record["kendall_tau"]["effective_rank"]["runs"] == 2


@pytest.mark.usefixtures("in_this_process")
def test_main__unknown_configuration_names_the_known_ones(labelled: Path, tmp_path: Path) -> None:
    given = ["--data", str(labelled), "--only", "v3", "--scratch", str(tmp_path)]

    with pytest.raises(BenchmarkError, match=r"unknown configurations: v3\.\n  Fix: .*heads-3"):
        quality.main(given)


def test_refused__names_what_is_wrong_with_a_recipe(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting("smallnet", 32, 3, 72)
    data = quality.Data(arguments["recipe"], arguments["overrides"], setting)
    wrong = {"v1": KNOWN["v1"], "wrong": quality.Ingredient("", "v1", {"train": {"lr": -1.0}})}

    found = quality.refused(list(wrong), wrong, data)

    assert list(found) == ["wrong"]
    assert "train.lr" in found["wrong"]


def figures(neighbours: float, **others: float) -> dict[str, float]:
    """Return the figures of a run."""
    return {"neighbours_class": neighbours, "epochs": 3.0, "epoch_s": 2.0, **others}


def test_quality_table__medians_and_extremes_over_seeds() -> None:
    runs: Runs = {
        "random": [{"neighbours_class": 0.25}],
        "v1": [figures(0.5, rankme=9), figures(0.3, rankme=7), figures(0.4, rankme=8)],
    }

    table = quality_table(runs, KNOWN)

    rows = [dict(zip(table["header"], row, strict=True)) for row in table["rows"]]
    assert rows[1]["10-NN, class"] == "40.0 % (30.0 % to 50.0 %)"
    assert rows[1]["rankme"] == "8 (7 to 9)"
    assert (rows[0]["10-NN, class"], rows[0]["rankme"]) == ("25.0 %", "–")
    assert "10-NN, object" not in table["header"]


def test_kendall_taus__are_over_all_runs_that_have_the_measure() -> None:
    runs: Runs = {
        "v1": [figures(0.1, rankme=1), figures(0.2, rankme=2)],
        "prototypes": [figures(0.3, rankme=3), figures(0.4)],
    }

    assert kendall_taus(runs) == {"rankme": {"runs": 3, "class": pytest.approx(1)}}


def test_measured__nothing_begins_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def run(side: Side) -> dict[str, float]:
        begun.append(side.target)
        if side.target == "fails":
            raise BenchmarkError("on purpose")
        return {"neighbours_class": 1.0}

    monkeypatch.setattr(Side, "run", run)
    names = ("first", "fails", "third", "fourth")
    sides = {(name, 0): Side(name) for name in names}

    found = quality._measured({("first", 0): sides["first", 0]}, at_once=2)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(BenchmarkError, match="on purpose"):
        quality._measured(sides, at_once=1)  # pyright: ignore[reportPrivateUsage]

    assert found == {("first", 0): {"neighbours_class": 1.0}}
    assert begun == ["first", "first", "fails"]


def test_main__runs_at_once_need_times_of_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"--at-once: .*\n  Fix: .*--cpu-time"):
        quality.main(["--at-once", "2", "--json", str(tmp_path / "out.json")])
