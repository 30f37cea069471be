"""Metrics of epochs in, figure 2 out."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import write_metrics
from deepcluster_core.context import Context
from stages.evaluations.nmi import COLUMNS, EVALUATION, PICTURE, NmiConfig
from stages.evaluations.shared.epoch_metrics import EpochMetrics, MetricsOfEpochs
from stages.evaluations.shared.protocol import PROTOCOLS, load_protocol
from stages.evaluations.shared.results import RESULTS
from stages.score import score

CONTEXT = Context(seed=31, epoch=2)


def metrics(folder: Path, *, k: int, nmi_labels: float | None, previous: float | None) -> Path:
    """Write metrics as the score stage does, as far as they are read."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, 1.0) | {
        "k": k,
        "nmi_labels": nmi_labels,
        "nmi_previous": previous,
        "moved_fraction": previous,
        "warnings": "",
    }
    with new_artifact(score.identity, folder, config={}, inputs={}, context=CONTEXT) as draft:
        write_metrics(folder, row)
        draft.rows = 1
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "nmi"


def evaluate(out: Path, made: list[EpochMetrics]) -> pd.DataFrame:
    protocol = load_protocol(PROTOCOLS / "nmi.yaml", NmiConfig, {})
    EVALUATION.stage.run(protocol=protocol, out=out, context=CONTEXT, metrics=MetricsOfEpochs(made))
    return pd.read_parquet(out / RESULTS)


def of_run(
    root: Path, *, ks: tuple[int, ...] = (8, 8, 8), swept_k: int | None = None
) -> list[EpochMetrics]:
    return [
        EpochMetrics(
            epoch,
            metrics(
                root / str(epoch),
                k=k,
                nmi_labels=(epoch + 5) / 10,
                previous=epoch / 10 if epoch else None,
            ),
            swept_k,
        )
        for epoch, k in enumerate(ks)
    ]


def width(picture: Path) -> int:
    with Image.open(picture) as opened:
        return opened.width


def test_run__a_row_for_each_epoch_in_order(tmp_path: Path, out: Path) -> None:
    made = of_run(tmp_path, ks=(9, 7, 8))  # some clusterings find k themselves

    table = evaluate(out, made[::-1])

    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["k"].tolist() == [9, 7, 8]
    assert table["nmi_labels"].tolist() == [0.5, 0.6, 0.7]
    assert table["nmi_previous"].tolist() == pytest.approx([math.nan, 0.1, 0.2], nan_ok=True)
    assert set(read_manifest(out).inputs) == {"epoch=0000", "epoch=0001", "epoch=0002"}
    assert read_manifest(out).rows == 3


def test_run__of_a_sweep_has_a_third_panel(tmp_path: Path, out: Path) -> None:
    evaluate(out, of_run(tmp_path))
    width_of_two = width(out / PICTURE)
    sweep = [
        *of_run(tmp_path / "100", ks=(100, 100), swept_k=100),
        *of_run(tmp_path / "10", ks=(10, 10), swept_k=10),
    ]

    table = evaluate(out, sweep)

    assert list(zip(table["k"], table["epoch"], strict=True)) == [
        (10, 0),
        (10, 1),
        (100, 0),
        (100, 1),
    ]
    assert set(read_manifest(out).inputs) == {
        *("k=00010/epoch=0000", "k=00010/epoch=0001"),
        *("k=00100/epoch=0000", "k=00100/epoch=0001"),
    }
    assert width(out / PICTURE) == pytest.approx(width_of_two * 3 / 2, abs=2)


def test_run__without_true_labels(tmp_path: Path, out: Path) -> None:
    made = [EpochMetrics(0, metrics(tmp_path / "0", k=8, nmi_labels=None, previous=None))]

    table = evaluate(out, made)

    assert table["nmi_labels"].tolist() == pytest.approx([math.nan], nan_ok=True)
    assert str(table["nmi_labels"].dtype) == "float64", "so that results join to one table"


def test_run__same_inputs_same_bytes(tmp_path: Path, out: Path) -> None:
    made = of_run(tmp_path)

    def digest() -> str:
        evaluate(out, made)
        return read_manifest(out).digest

    assert digest() == digest()
