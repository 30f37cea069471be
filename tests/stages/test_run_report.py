import re
from pathlib import Path
from typing import Any

import pytest

from stages.runs.report import HEADER, epoch_line
from stages.runs.terminal import typed

NAMES = ("extract", "cluster", "train", "score")
USUAL: dict[str, Any] = {
    "loss": 2.0794,
    "nmi_previous": 0.5,
    "nmi_labels": 0.25,
    "empty_clusters": 0,
    "largest_cluster": 44,
    "train_images_per_s": 812.4,
}


def ends_of_columns() -> list[int]:
    return [found.end() for found in re.finditer(r"NMI \w+|\S+", HEADER)]


@pytest.mark.parametrize(
    ("epoch", "changes", "seconds", "cached"),
    [
        (0, {"nmi_previous": None, "nmi_labels": None}, 0.04, {}),
        (7, {}, 12.34, {"extract": True, "cluster": True}),
        (
            12345,
            {
                "loss": 9.2103,
                "empty_clusters": 10_000,
                "largest_cluster": 1_281_167 // 2,
                "train_images_per_s": 123_456.7,
            },
            86_400.0,
            {},
        ),
    ],
)
def test_epoch_line__columns_end_where_those_of_the_header_do(
    epoch: int, changes: dict[str, Any], seconds: float, cached: dict[str, bool]
) -> None:
    line = epoch_line(epoch, USUAL | changes, dict.fromkeys(NAMES, seconds), cached)

    assert len(line) == len(HEADER)
    for end in ends_of_columns():
        assert line[end - 1] != " ", f"nothing ends at {end}:\n{HEADER}\n{line}"
        assert line[end : end + 1].strip() == ""


def test_epoch_line__shows_values_and_what_was_cached() -> None:
    line = epoch_line(3, USUAL, dict.fromkeys(NAMES, 1.25), {"extract": True, "train": False})

    assert line.split() == [
        *("3", "2.079", "0.500", "0.250", "0", "44", "812"),
        *("Cached", "1.2", "s", "1.2", "s", "1.2", "s"),
    ]


def test_epoch_line__unknown_agreement_is_a_dash() -> None:
    row = USUAL | {"nmi_previous": None, "nmi_labels": None}

    assert epoch_line(0, row, dict.fromkeys(NAMES, 1.0), {}).split()[2:4] == ["–", "–"]


def test_typed__paths_in_the_working_folder_are_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert typed(tmp_path / "runs/mine/images") == "runs/mine/images"
    assert typed(tmp_path.parent / "other") == str(tmp_path.parent / "other")
