"""Both sides of the comparison on tiny data. Suffixes as in benchmarks.plain_v2."""

import json
from pathlib import Path

import pytest

from benchmarks import parity
from benchmarks.learning import agreement


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_main__compares_both_sides(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"

    # 72 pictures are enough for the 50 clusters of the recipe.
    given = ["--data", str(labelled), "--images", "72", "--epochs", "2", "--repeats", "1"]
    parity.main([*given, "--json", str(out), "--scratch", str(tmp_path)])

    record = json.loads(out.read_text())
    for side in ("plain", "ours"):
        figures = record["summary"][side]
        assert figures["loss_0"]["median"] > figures["loss_1"]["median"] > 0
        assert 0 <= figures["neighbours_object"]["median"] <= 1
    assert [target["what"] for target in record["targets"]][-1] == "epoch, plain over ours"


def test_agreement__differences_within_the_spread_are_met() -> None:
    near = [{"loss": 1.0}, {"loss": 1.2}]
    also_near = [{"loss": 1.1}, {"loss": 1.3}]
    far = [{"loss": 2.0}, {"loss": 2.2}]

    assert agreement(near, also_near, "loss", "loss").met is True
    assert agreement(near, far, "loss", "loss").met is False
    assert agreement(near[:1], far[:1], "loss", "loss").met is None, "one seed has no spread"
