"""Whole benchmarks on tiny sizes: seconds, most of them imports of the sides' processes."""

import json
from pathlib import Path

import pytest

from benchmarks import epoch
from tests.support.tiny_benchmark import TINY


@pytest.mark.slow
def test_epoch__measures_both_sides(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    sizes = ["--images", "24", "--workers", "1", "--repeats", "1", "--scratch", str(scratch)]
    epoch.main(["--quick", "--json", str(out), *sizes], overrides=TINY)

    found = json.loads(out.read_text())
    assert found["speedup"] == pytest.approx(found["baseline_s"] / found["ours_s"])
    assert (found["repeats"], found["quick"], found["settings"]["images"]) == (1, True, 24)
    for side in ("baseline", "ours, raw"):
        parts = found["summary"][side]
        stages = sum(parts[f"{stage}_s"]["median"] for stage in ("extract", "cluster", "train"))
        assert 0 < stages <= parts["seconds"]["median"]
        assert parts["threads"]["median"] == found["summary"]["baseline"]["threads"]["median"]
    assert not any(scratch.iterdir()), "temporary data are deleted"
