import json
from pathlib import Path

import pytest

from benchmarks import people


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_main__measures_each_command(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["--quick", "--repeats", "1", "--json", str(out), "--scratch", str(tmp_path)]

    people.main(arguments, quick_sizes=people.Sizes(images=(300,)))

    found = json.loads(out.read_text())
    assert len(found["targets"]) == len(people.SIDES)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
