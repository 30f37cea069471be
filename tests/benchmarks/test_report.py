import json
import re
from pathlib import Path

import pytest

from benchmarks.harness import BenchmarkError, Result, Target
from benchmarks.options import Options, parser
from benchmarks.report import README, markdown, with_table


def write_result(folder: Path, name: str, *targets: Target) -> None:
    given = ["--json", str(folder / f"{name}.json")]
    runs = {"ours": [{"seconds": 1.0}]}
    options = Options.of(parser(name, "doc").parse_args(given))
    Result(name, targets, runs, notes=["384 pictures."]).report(options)


def test_markdown__a_row_for_each_target(tmp_path: Path) -> None:
    write_result(tmp_path, "epoch", Target("raw", 4.123, 4.0, "x"), Target("jpeg", 3.5, 4.0, "x"))
    write_result(tmp_path, "gpu", Target("memory", 10.0, 12.0, "GiB", at_most=True))

    lines = markdown(tmp_path).splitlines()

    assert "| `epoch` | raw | 4.12 x | ≥ 4 x | met |" in lines
    assert "| `epoch` | jpeg | 3.5 x | ≥ 4 x | **missed** |" in lines
    assert "| `gpu` | memory | 10 GiB | ≤ 12 GiB | met |" in lines
    assert "  - 384 pictures." in lines


def test_markdown__no_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"holds no results.*\n.*make bench"):
        markdown(tmp_path)


def test_with_table__takes_the_place_of_the_last_one() -> None:
    once = with_table("# Benchmarks\n\nWords.\n", "| old |")
    twice = with_table(once, "| new |")

    assert once.startswith("# Benchmarks\n\nWords.\n\n<!--")
    assert once.endswith("## Results\n\n| old |\n")
    assert twice == once.replace("old", "new")


def test_readme__names_every_benchmark() -> None:
    package = README.parent
    benchmarks = {p.stem for p in package.glob("*.py") if " = parser(" in p.read_text()}

    named = set(re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE))

    assert {"epoch", "stages", "loading", "learning", "gpu"} <= benchmarks
    assert benchmarks <= named


def test_markdown__a_table_of_its_own_follows(tmp_path: Path) -> None:
    table = {"header": ["side", "10-NN"], "rows": [["`v1`", "40 %"]]}
    taus = {"rankme": {"runs": 5, "object": 0.4, "class": None}}
    result = Result(
        "one", [Target("share", 0.9)], {}, headline={"table": table, "kendall_tau": taus}
    )
    record = result.record(Options(quick=True, repeats=1, json=tmp_path / "a", scratch=None))
    (tmp_path / "one.json").write_text(json.dumps(record))

    lines = markdown(tmp_path).splitlines()

    start = lines.index("### one")
    assert lines[start + 2 : start + 5] == ["| side | 10-NN |", "| --- | --- |", "| `v1` | 40 % |"]
    assert lines[-1] == "- Kendall's τ of `rankme`, 5 runs: object 0.40, class –"
