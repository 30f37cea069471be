import json
from pathlib import Path

import pytest

from benchmarks import cluster


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_main__compares_with_faiss_and_with_itself(tmp_path: Path) -> None:
    sizes = cluster.Sizes({"count": 600, "dim": 512, "k": 10}, {"dim": 512, "k": 10}, (300, 600))
    out = tmp_path / "out.json"
    arguments = ["--quick", "--repeats", "1", "--json", str(out), "--scratch", str(tmp_path)]

    cluster.main(arguments, quick_sizes=sizes)

    found = json.loads(out.read_text())
    assert found["summary"].keys() == {"faiss in memory", "ours", "300 rows", "600 rows"}
    named = {target["what"]: target for target in found["targets"]}
    assert named["against faiss in memory"]["value"] > 0
    assert named["peak memory, 600 rows"] | {"met": None} == {
        "what": "peak memory, 600 rows",
        "value": 1.0,
        "bound": 3.0,
        "unit": "GiB",
        "at_most": True,
        "met": None,
    }


def test_growth__is_told_by_the_row_that_is_farthest_away() -> None:
    seconds = {100: 1.0, 200: 2.2, 400: 4.0}
    runs = {f"{n} rows": [{"seconds": s, "peak_bytes": 2**31}] for n, s in seconds.items()}

    away, *_, peak = cluster.growth(runs, (100, 200, 400), quick=False)

    assert away.value == pytest.approx(100 * (11_000 / 10_500 - 1))
    assert away.met
    assert (peak.value, peak.met) == (2.0, True)
