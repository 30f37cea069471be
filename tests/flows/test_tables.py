"""The paper's tables beside what runs have measured."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.config_files import CONFIGS
from deepcluster_core.errors import ArtifactError, ConfigError
from flows.cli.main import main
from flows.evaluate import evaluate
from flows.show.paper_tables import load_table, measured
from flows.show.tables import show_table
from stages.evaluations.shared.results import read_results
from stages.runs.folder import RunFolder
from tests.support.drawn_landmarks import draw_landmarks
from tests.support.program import PROGRAM
from tests.support.voc_tree import write_voc

QUICK = {"flip": 0.0, "epochs": 1, "weight_decays": [1e-4], "random_crop": False}


@pytest.mark.parametrize("name", [f"table{number}" for number in range(1, 6)])
def test_load_table__has_the_papers_own_row(name: str) -> None:
    table = load_table(name)

    own = [cells for method, cells in table.rows.items() if method.startswith("DeepCluster")]
    assert own
    assert all(None not in cells for cells in own), "the paper measured itself everywhere"
    assert len({column.name for column in table.columns}) == len(table.columns)


def test_load_table__is_as_the_paper_prints_it() -> None:
    """Single cells, looked up in the tables of arXiv:1807.05520."""
    assert load_table("table1").rows["DeepCluster"][2] == 41.0
    assert load_table("table2").rows["DeepCluster"] == (72.0, 73.7, 51.4, 55.4, 43.2, 45.1)
    assert load_table("table3").rows["DeepCluster, YFCC100M"][0] == 67.3
    assert load_table("table4").rows["Random"] == (47.8, 39.7)
    assert load_table("table5").rows["ImageNet labels"] == (72.4, 81.5)


def test_load_table__refuses_others() -> None:
    with pytest.raises(ConfigError, match=r"evaluate table9: unknown .*\n.* of table1, table2"):
        load_table("table9")
    assert len(list(CONFIGS.glob("tables/*.yaml"))) == 5


def test_show_table__sets_ours_beside_the_papers_and_leaves_the_rest_empty(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(name="linear", run=str(own_run), overrides=QUICK)
    results = read_results(own_run / "evaluations/linear/epoch=0002")
    capsys.readouterr()

    show_table("table1", [RunFolder(own_run)])

    rows = {row.method: row.cells for row in measured(load_table("table1"), RunFolder(own_run))}
    trained = {r["layer"]: r["top1_best"] for r in results if r["network"] == "epoch 2"}
    cells = rows["run (of shapes), epoch 2"]
    values = [None if cell is None else cell.value for cell in cells]
    assert values[:4] == [trained[f"conv{number}"] for number in range(1, 5)]
    assert set(values[4:]) == {None}, "no conv5, and no Places"
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    ours = [line for line in lines if line[:1] == ["ours"]]
    assert len(ours) == len(rows) == 2
    assert all(line[-1] != "–" for line in ours)
    assert ["paper", "DeepCluster", "13.4"] in [line[:3] for line in lines]


def test_show_table__without_results_says_what_to_run(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_table("table5", [RunFolder(finished_run)])

    printed = capsys.readouterr().out
    assert "ours" not in printed
    assert "no run has one of the results retrieval, retrieval-paris yet" in printed


@pytest.fixture
def deviating(own_run: Path, tmp_path: Path) -> Path:
    """Return a run that was judged on a drawn VOC, otherwise than in the paper."""
    write_voc(tmp_path / "voc", sizes={"train": 8, "val": 8, "test": 16})
    brief: dict[str, Any] = {"iterations": 2, "crops": 1}
    voc = str(tmp_path / "voc")
    evaluate(name="voc-classification", run=str(own_run), data=voc, overrides=brief)
    return own_run


def test_show_table__writes_what_it_prints(
    deviating: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = deviating / "evaluations/voc-classification/epoch=0002"
    ap = {r["network"]: r["ap"] for r in read_results(result) if r["class"] == "mean"}
    deviations = read_manifest(result).facts["deviations"]
    capsys.readouterr()

    for suffix in ("csv", "parquet", "md"):
        show_table("table2", [RunFolder(deviating)], tmp_path / f"table2.{suffix}")

    printed = capsys.readouterr().out
    assert len(deviations) > 1
    assert f"{ap['epoch 2']:.1f}* " in printed
    assert f"{len(deviations)} deviations from the paper's protocol: {result}" in printed
    columns = [column.name for column in load_table("table2").columns]
    for table in (
        pd.read_csv(tmp_path / "table2.csv"),
        pd.read_parquet(tmp_path / "table2.parquet"),
    ):
        assert list(table.columns) == ["of", "method", *columns, "deviations"]
        ours = table.query("of == 'ours'").set_index("method")
        assert list(ours["classification fc6-8"]) == pytest.approx(list(ap.values()))
        assert not len(ours.dropna(subset=["classification all"]))
        assert all("; ".join(deviations) in told for told in ours["deviations"])
        own = table.query("of == 'paper' and method == 'DeepCluster'")
        assert own[columns].to_numpy().tolist() == [[72.0, 73.7, 51.4, 55.4, 43.2, 45.1]]
        assert not len(own.dropna(subset=["deviations"]))
    written = (tmp_path / "table2.md").read_text().splitlines()
    assert "| paper | Donahue et al. | 52.3 | 60.1 | – | 46.9 | – | 35.2 |" in written
    last = f"| ours | run (of shapes), epoch 2 | {ap['epoch 2']:.1f}\\* |  |  |  |  |  |"
    assert last in written


def test_measured__a_number_stands_in_the_column_of_its_network(deviating: Path) -> None:
    table2 = load_table("table2")
    first = table2.columns[0]
    columns = tuple(
        first.model_copy(update={"name": name, "network": name}) for name in ("alexnet", "smallnet")
    )
    paper = table2.model_copy(update={"columns": columns})
    for row in measured(paper, RunFolder(deviating)):
        alexnet, smallnet = row.cells
        assert alexnet is None
        assert smallnet is not None


@pytest.mark.slow
def test_show_table__deviations_that_a_result_names_by_network(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oxford = str(draw_landmarks(tmp_path / "oxford"))
    evaluate(
        name="retrieval", run=str(own_run), data=oxford, overrides={"long_side": 64, "dims": 16}
    )
    result = own_run / "evaluations/retrieval/epoch=0002"
    (named,) = {row["deviations"] for row in read_results(result)}
    capsys.readouterr()

    show_table("table5", [RunFolder(own_run)])

    number = named.count("; ") + 1
    told = f"* {number} deviations from the paper's protocol: {result}/results.parquet"
    assert told in capsys.readouterr().out.splitlines()


def test_show_table__refuses_to_write_elsewhere_or_over(finished_run: Path, tmp_path: Path) -> None:
    there = tmp_path / "table.csv"
    there.write_text("mine")
    runs = [RunFolder(finished_run)]

    with pytest.raises(ConfigError, match=r"(?s)must end in one of \.csv, .*Fix: --out .*x\.csv"):
        show_table("table2", runs, tmp_path / "x.xlsx")
    with pytest.raises(ArtifactError, match="exists already"):
        show_table("table2", runs, there)

    assert there.read_text() == "mine"


def test_evaluate_command__a_file_is_of_tables_alone(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", "knn", str(finished_run), "--out", "knn.csv"]
    monkeypatch.setattr(sys, "argv", [str(PROGRAM), *asked])

    with pytest.raises(SystemExit, match="2"):
        main()

    said = capsys.readouterr().err
    assert "knn.csv: names a file, but the result of an evaluation is a folder.\n  Fix: " in said
