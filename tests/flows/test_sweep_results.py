"""What a sweep reports: its table, its picture, and what its commands print."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from flows.cli.main import main
from flows.evaluate import evaluate
from flows.show.sweep_picture import draw_sweep
from stages.evaluations.shared.results import read_results
from tests.support.flow_runs import SWEPT_EPOCHS, call, swept
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.run_files import artifact_contents
from tests.support.timeouts import WITHIN_S


def test_sweep__compares_what_was_asked_for(recipe: Path, own_sweep: Path) -> None:
    before = artifact_contents(own_sweep / "k=00008")

    swept(recipe, own_sweep, 4)

    assert list(pd.read_parquet(own_sweep / "sweep.parquet")["k"].unique()) == [4]
    assert artifact_contents(own_sweep / "k=00008") == before


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


def test_evaluate__nmi_of_a_sweep_has_a_row_for_each_k_and_epoch(own_sweep: Path) -> None:
    first = call(evaluate, name="nmi", run=str(own_sweep))
    again = call(evaluate, name="nmi", run=str(own_sweep))

    assert (first, again) == ({"nmi epoch 1": "Completed"}, {"nmi epoch 1": "Cached"})
    rows = read_results(own_sweep / "evaluations/nmi/epoch=0001")
    assert [(row["k"], row["epoch"]) for row in rows] == [(4, 0), (4, 1), (8, 0), (8, 1)]
    of_8 = read_metrics(own_sweep / "k=00008/metrics/epoch=0001")
    assert rows[-1]["nmi_labels"] == of_8["nmi_labels"]
    assert (own_sweep / "evaluations/nmi/epoch=0001/nmi.png").exists()
