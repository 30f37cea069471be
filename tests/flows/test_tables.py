"""The paper's tables beside what runs have measured."""

from pathlib import Path

import pytest

from deepcluster_core.errors import ConfigError
from flows.evaluate import evaluate
from flows.tables import TABLES, load_table, measured, show_table
from stages.evaluations.results import read_results
from stages.layout import RunFolder

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
    with pytest.raises(ConfigError, match=r"evaluate table9: .* known: table1, table2"):
        load_table("table9")
    assert len(list(TABLES.glob("*.yaml"))) == 5


def test_show_table__sets_ours_beside_the_papers_and_leaves_the_rest_empty(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate("linear", str(own_run), overrides=QUICK)
    results = read_results(own_run / "evaluations/linear/epoch=0002")
    capsys.readouterr()

    show_table("table1", [RunFolder(own_run)])

    rows = dict(measured(load_table("table1"), RunFolder(own_run)))
    trained = {r["layer"]: r["top1_best"] for r in results if r["network"] == "epoch 2"}
    cells = rows["run (of shapes), epoch 2"]
    assert cells[:4] == tuple(trained[f"conv{number}"] for number in range(1, 5))
    assert set(cells[4:]) == {None}, "no conv5, and no Places"
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
