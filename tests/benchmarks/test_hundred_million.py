import json
from pathlib import Path

import pytest

from benchmarks import hundred_million
from benchmarks.harness import BenchmarkError
from benchmarks.hundred_million import Sizes

SMALL = Sizes(
    table_rows=3000,
    order_rows=20_000,
    cluster_rows=2048,
    k=20,
    iterations=1,
    wanted_iterations=20,
    pca_rows=2000,
    pca_dim=512,
    pca_sample=800,
)


@pytest.mark.usefixtures("in_this_process")
def test_main__measures_the_parts_that_are_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["--quick", "--json", str(out), "--scratch", str(tmp_path), "--only", "pca"]

    hundred_million.main(arguments, quick_sizes=SMALL)

    found = json.loads(out.read_text())
    assert found["settings"]["parts"] == ["pca"]
    reached = {target["what"]: target["value"] for target in found["targets"]}
    assert reached["pca, whole features, an image"] == pytest.approx(1024, rel=0.02)
    # 2,000 rows of 512 bytes are less than eight full chunks, and the last one is not full.
    assert reached["pca, reduced features, an image"] == pytest.approx(512, rel=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.slow
def test_main__all_parts(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["--quick", "--json", str(out), "--scratch", str(tmp_path)]

    hundred_million.main(arguments, quick_sizes=SMALL)

    found = json.loads(out.read_text())
    reached = {target["what"]: target["value"] for target in found["targets"]}
    # The generated paths are regular and compress well, to a third of the table.
    assert reached["labels without paths, an image"] < 0.8 * reached["labels with paths, an image"]
    assert reached["order, held by a rank"] < 0.1, "mapped"
    minutes = reached["cluster, 20 iterations, extrapolated"]
    hours = reached["cluster, 100,000,000 rows, extrapolated"]
    assert hours == pytest.approx(minutes / 60 * 1e8 / 2048)


def test_main__refuses_repeats(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="each part runs once"):
        hundred_million.main(["--quick", "--repeats", "2", "--json", str(tmp_path / "out.json")])
