"""Clusters of two label tables side by side, as a person reads them."""

import json
import re
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pytest

from deepcluster_core.artifacts.label_pairs import read_label_pair
from deepcluster_core.clustering.changes import KINDS
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.metrics import nmi
from flows.show.diff import show_diff

# 30 images: 0 splits into 0 and 1, 1 and 2 merge into 2, 3 becomes 5.
BEFORE = np.repeat([0, 1, 2, 3], [12, 5, 4, 9])
AFTER = np.repeat([0, 1, 2, 5], [7, 5, 9, 9])


class Diff(Protocol):
    def __call__(
        self,
        first: Path,
        second: Path | None = None,
        *,
        epochs: tuple[int | None, int | None] = (None, None),
        out: Path | None = None,
        limit: int = 50,
    ) -> list[str]: ...


@pytest.fixture
def diff(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Diff:
    """Return a function that shows a diff and returns the lines."""
    monkeypatch.setenv("COLUMNS", "200")

    def of(
        first: Path,
        second: Path | None = None,
        *,
        epochs: tuple[int | None, int | None] = (None, None),
        out: Path | None = None,
        limit: int = 50,
    ) -> list[str]:
        other = None if second is None else str(second)
        since, until = epochs
        show_diff(str(first), other, from_epoch=since, to_epoch=until, out=out, limit=limit)
        return capsys.readouterr().out.splitlines()

    return of


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Return two small label tables."""
    paths = tmp_path / "before.parquet", tmp_path / "after.parquet"
    for path, cluster in zip(paths, (BEFORE, AFTER), strict=True):
        pd.DataFrame({"image_id": np.arange(30), "cluster": cluster}).to_parquet(path)
    return paths


def counts(lines: list[str]) -> dict[str, list[int]]:
    """Return the numbers of the table of kinds."""
    found: dict[str, list[int]] = {}
    for line in lines:
        match = re.match(rf"({'|'.join(KINDS)}) +([\d,]+) +([\d,]+) +([\d,]+)  [a-z]", line)
        if match:
            found[match[1]] = [int(number.replace(",", "")) for number in match.groups()[1:]]
    return found


def listed(lines: list[str]) -> list[str]:
    """Return the rows of the list of clusters, single-spaced."""
    start = next(n for n, line in enumerate(lines) if "(share of before)" in line)
    return [" ".join(line.split()) for line in lines[start + 1 :] if line.startswith(KINDS)]


def test_show_diff__two_tables(diff: Diff, tables: tuple[Path, Path]) -> None:
    lines = diff(*tables)

    assert lines[0].endswith("after.parquet")
    assert lines[1] == f"30 images, NMI {nmi(BEFORE, AFTER):.3f}"
    assert counts(lines) == {
        "split": [1, 2, 12],
        "merged": [2, 1, 9],
        "new": [0, 0, 0],
        "vanished": [0, 0, 0],
        "moved": [0, 0, 0],
        "same": [1, 1, 9],
    }
    assert listed(lines) == [
        "split 0 12 0 7 7 0: 58 %, 1: 42 % 0: 100 %",
        "split 0 12 1 5 5 0: 58 %, 1: 42 % 0: 100 %",
        "merged 1 5 2 9 5 2: 100 % 1: 56 %, 2: 44 %",
        "merged 2 4 2 9 4 2: 100 % 1: 56 %, 2: 44 %",
    ]


def test_show_diff__new_and_vanished_have_a_dash(diff: Diff, tmp_path: Path) -> None:
    # A tenth of each of ten clusters becomes cluster 10, and cluster 11 dissolves into the ten.
    before = np.concatenate([np.repeat(np.arange(10), 100), np.repeat(11, 100)])
    after = np.concatenate([np.tile(np.r_[[10] * 10, [-1] * 90], 10), np.tile(np.arange(10), 10)])
    after = np.where(after == -1, before, after)
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
    for path, cluster in zip(paths, (before, after), strict=True):
        pd.DataFrame({"image_id": np.arange(1100), "cluster": cluster}).to_parquet(path)

    lines = diff(*paths)

    assert counts(lines)["same"] == [10, 10, 1000]
    assert listed(lines) == [
        "new – – 10 100 – – 0: 10 %, 1: 10 %, 2: 10 %",
        "vanished 11 100 – – – 0: 10 %, 1: 10 %, 2: 10 % –",
    ]


def test_show_diff__the_same_table_twice(diff: Diff, tables: tuple[Path, Path]) -> None:
    lines = diff(tables[0], tables[0])

    assert counts(lines)["same"] == [4, 4, 30]
    assert lines[1].endswith("NMI 1.000")
    assert "no cluster has changed" in lines


def test_show_diff__limit(diff: Diff, tables: tuple[Path, Path]) -> None:
    lines = diff(*tables, limit=3)

    assert len(listed(lines)) == 3
    assert lines[-1] == "… and 1 more; --limit 4 shows all"


def test_show_diff__last_two_epochs_of_a_run(diff: Diff, finished_run: Path) -> None:
    lines = diff(finished_run)

    assert re.match(r".*labels/epoch=0001 → .*labels/epoch=0002$", lines[0])
    metrics = pd.read_parquet(finished_run / "metrics").set_index("epoch")
    assert lines[1] == f"240 images, NMI {metrics.nmi_previous[2]:.3f}"
    found = counts(lines)
    assert sum(images for kind, (_, _, images) in found.items() if kind != "vanished") == 240
    assert diff(finished_run, epochs=(1, 2)) == lines
    labels = finished_run / "labels"
    assert diff(labels / "epoch=0001", labels / "epoch=0002") == lines
    assert diff(finished_run, finished_run, epochs=(1, None)) == lines
    assert diff(labels / "epoch=0001/labels.parquet", finished_run) == lines


def test_show_diff__any_two_epochs_of_a_run(diff: Diff, finished_run: Path) -> None:
    lines = diff(finished_run, epochs=(0, None))

    pair = read_label_pair(
        finished_run / "labels/epoch=0000/labels.parquet",
        finished_run / "labels/epoch=0002/labels.parquet",
    )
    assert lines[1] == f"240 images, NMI {nmi(pair.before_N, pair.after_N):.3f}"
    assert diff(finished_run, epochs=(None, 1))[0].endswith("labels/epoch=0001")


def test_show_diff__other_images_of_the_same_paths(
    diff: Diff, finished_run: Path, tmp_path: Path
) -> None:
    labels = pd.read_parquet(finished_run / "labels/epoch=0002/labels.parquet")
    part = labels[::-2].copy()
    part["image_id"] = np.arange(len(part))
    part.to_parquet(tmp_path / "part.parquet")

    lines = diff(finished_run, tmp_path / "part.parquet")

    assert lines[1] == "120 images in common, of 240 and 120, found by their path, NMI 1.000"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_show_diff__out_has_all(
    diff: Diff, tables: tuple[Path, Path], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"changes{suffix}"

    lines = diff(*tables, out=out, limit=1)

    assert lines[-1].endswith("all 5 rows")
    frame = pd.read_parquet(out) if suffix == ".parquet" else pd.read_csv(out)
    assert frame.kind.tolist() == ["split", "split", "merged", "merged", "same"]
    assert frame.cluster.tolist() == [0, 1, 2, 2, 5]
    assert frame.previous.tolist() == [0, 0, 1, 2, 3]
    first = frame.went_to[0] if suffix == ".parquet" else json.loads(frame.went_to[0])
    assert [(part["cluster"], part["images"]) for part in first] == [(0, 7), (1, 5)]
    with pytest.raises(ArtifactError, match="exists already"):
        diff(*tables, out=out)


def test_show_diff__refusals_say_what_to_do(
    diff: Diff, tables: tuple[Path, Path], finished_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/labels.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match="is one table, and a diff needs two"):
        diff(tables[0])
    with pytest.raises(ConfigError, match=r"--to 3: .*before.parquet is a table"):
        diff(finished_run, tables[0], epochs=(None, 3))
    with pytest.raises(ConfigError, match=r"--from 9: .* has labels of epoch 0 to 2"):
        diff(finished_run, epochs=(9, None))
    with pytest.raises(ConfigError, match="has no labels before epoch 0"):
        diff(finished_run, epochs=(None, 0))
    with pytest.raises(ConfigError, match="is not a run"):
        diff(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="not hold a finished artifact"):
        diff(tables[0], tmp_path / "unfinished")
    with pytest.raises(ConfigError, match=r"must end in \.parquet or \.csv"):
        diff(*tables, out=tmp_path / "changes.txt")
