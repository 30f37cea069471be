import json
import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import command, scaling
from benchmarks.harness import BenchmarkError
from benchmarks.scaling_sides import write_moved_digits


@pytest.mark.usefixtures("in_this_process")
def test_main__takes_the_fixed_start_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed_run(
        run: str, home: str, settings: list[str], *, cached: bool = False
    ) -> dict[str, float]:
        assert home
        assert settings
        found = re.search(r"run-(\d+)", run)
        count = int(found[1]) if found else 100
        return {"seconds": 3.0 if cached else 3.0 + 0.01 * count}

    monkeypatch.setattr(command, "timed_run", timed_run)
    out = tmp_path / "out.json"

    arguments = ["--quick", "--repeats", "2", "--json", str(out), "--scratch", str(tmp_path)]
    scaling.main(arguments, quick_counts=(20, 40))

    named = {target["what"]: target for target in json.loads(out.read_text())["targets"]}
    assert named["fixed start, 40 images"]["value"] == 3
    for count in (20, 40):
        each = named[f"an image and epoch, of {count}"]["value"]
        assert each == pytest.approx(1e3 * 0.01 / scaling.EPOCHS)
    assert named["farthest from the middle"]["met"]


@pytest.mark.slow
def test_moved_digits__are_as_many_as_asked_for_and_differ(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"

    write_moved_digits(str(path), 10_010)

    table = pd.read_parquet(path)
    assert len(table) == 10_010
    assert table["label"].between(0, 9).all()
    first, again = table["image"].tolist()[::10_000]
    assert first["bytes"] != again["bytes"], "the same digit at another place"


@pytest.mark.slow
def test_timed_run__says_what_went_wrong(tmp_path: Path) -> None:
    home = str(tmp_path / "prefect")
    with pytest.raises(BenchmarkError, match=r"exit code 2"):
        command.timed_run(str(tmp_path / "run"), home, ["cluster.k=none"])
