"""Which measure without labels orders runs as the labels do."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.show.sweep import show_sweep
from flows.show.sweep_agreement import agreements, equal_in_all, labelled_measure, remark_on

Row = dict[str, Any]


def rows(**columns: list[Any]) -> list[Row]:
    """Return the last epochs of some runs, given by column."""
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def taus(found: list[Row], labelled: str) -> dict[str, float]:
    return {one.name: one.tau for one in agreements(found, labelled)}


def test_agreements__kendalls_tau_counts_pairs_in_order() -> None:
    found = rows(ami=[0.1, 0.2, 0.3, 0.4], rankme=[10.0, 20.0, 40.0, 30.0])
    # Five of six pairs are in the order of the labels, one is not.
    assert taus(found, "ami") == {"RankMe": pytest.approx(4 / 6)}


def test_agreements__lower_is_better_for_some() -> None:
    found = rows(
        ami=[0.1, 0.2, 0.3], alpha=[3.0, 2.0, 1.0], **{"rank uniformity": [-1.0, -2.0, -3.0]}
    )
    assert taus(found, "ami") == {
        "alpha (lower is better)": pytest.approx(1),
        "uniformity (lower is better), rank": pytest.approx(1),
    }


def test_agreements__needs_three_known_and_different_values() -> None:
    nan = math.nan
    found = rows(
        ami=[0.1, 0.2, 0.3],
        rankme=[1.0, None, 2.0],
        alpha=[1.0, nan, 2.0],
        view_agreement=[0.5, 0.5, 0.5],
        effective_rank=[3.0, 2.0, 1.0],
    )
    assert taus(found, "ami") == {"participation ratio": pytest.approx(-1)}


def test_agreements__reads_the_trained_network_of_other_evaluations() -> None:
    found = rows(
        ami=[0.1, 0.2, 0.3],
        **{"rank lidar": [5.0, 6.0, 7.0], "rank lidar random": [9.0, 9.1, 9.2]},
    )
    assert taus(found, "ami") == {"LiDAR, rank": pytest.approx(1)}


def test_labelled_measure__prefers_the_best_neighbours_then_ami_then_nmi() -> None:
    known: dict[str, list[Any]] = {"nmi_labels": [0.5, 0.6], "ami": [0.4, 0.5]}
    neighbours: dict[str, list[Any]] = {
        "knn top1 of 1 neighbours": [60.0, 70.0],
        "knn top1 of 5 neighbours": [65.0, 72.0],
        "knn top1 of 5 neighbours random": [90.0, 90.0],
    }
    best = labelled_measure(rows(**known, **neighbours))
    assert best is not None
    assert best[0] == "knn top1 of 5 neighbours"
    assert labelled_measure(rows(**known)) == ("ami", "AMI with the true labels")
    assert labelled_measure(rows(nmi_labels=[0.5, 0.6])) == (
        "nmi_labels",
        "NMI with the true labels",
    )
    assert labelled_measure(rows(nmi_labels=[0.5, None])) is None


def test_remark_on__is_honest_about_few_runs() -> None:
    assert "1 in 1 of 6 cases" in remark_on(3, "ami")
    assert "prove little" not in remark_on(30, "ami")


def test_remark_on__neighbours_are_of_a_later_network() -> None:
    assert "those of the network before it" in remark_on(3, "knn top1 of 5 neighbours")
    assert "before" not in remark_on(3, "ami")


def test_equal_in_all__names_what_orders_nothing() -> None:
    found = rows(ami=[0.1, 0.2, 0.3], rankme=[5.0, 5.0, 5.0], alpha=[1.0, 1.0, 1.5])
    assert equal_in_all(found) == ["RankMe"]
    assert taus(found, "ami").keys() == {"alpha (lower is better)"}


def test_show_sweep__prints_measures_and_tau(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common: Row = {
        **{"loss": 1.0, "ln_k": 2.0, "nmi_previous": 0.5, "empty_clusters": 0, "seconds": 1.0},
        **{"effective_clusters": 3.0, "k": 8},
    }
    table: list[Row] = []
    for at, rate in enumerate((0.01, 0.05, 0.1)):
        measures = {"nmi_labels": 0.1 * at, "ami": 0.1 * at, "rankme": 50.0 - at, "alpha": None}
        table.append({"train.lr": rate, "epoch": 0} | common | measures)
    pd.DataFrame(table).to_parquet(tmp_path / "sweep.parquet")

    show_sweep(tmp_path)

    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["0.05", "49.000", "0.100"] in lines
    assert ["RankMe", "-1.00", "3"] in lines
    assert "AMI with the true labels, over 3 runs" in out
    assert "1 in 1 of 6 cases" in out
    assert f"show {tmp_path}/train.lr=0.1 " in out
