import importlib.metadata
import json
import re
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import (
    BenchmarkError,
    Result,
    Side,
    Target,
    alternate,
    guarded,
    spread,
)
from benchmarks.machine import instruction_limit, versions
from benchmarks.options import Options, parser

SIDES = "tests.support.benchmark_sides"


def options(tmp_path: Path, *arguments: str) -> Options:
    json_file = str(tmp_path / "new" / "out.json")
    return Options.of(parser("epoch", "doc").parse_args([*arguments, "--json", json_file]))


def test_alternate__takes_turns_in_fresh_processes(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    sides = {name: Side(f"{SIDES}:note", {"name": name, "diary": str(diary)}) for name in "AB"}

    runs = alternate(sides, repeats=3)

    assert diary.read_text() == "ABABAB"
    assert [run["count"] for run in runs["B"]] == [2, 4, 6]
    assert all(run["seconds"] >= 0 and run["peak_bytes"] > 1 << 20 for run in runs["A"])


def test_alternate__stops_when_the_next_turn_would_not_fit(tmp_path: Path) -> None:
    side = Side(f"{SIDES}:note", {"name": "A", "diary": str(tmp_path / "diary")})

    runs = alternate({"A": side}, repeats=50, budget_s=0.0)

    assert len(runs["A"]) == 1, "the first turn is never left out"


@pytest.mark.parametrize(("afresh", "processes"), [(True, 6), (False, 2)])
def test_alternate__a_side_keeps_its_process_if_asked_to(afresh: bool, processes: int) -> None:
    sides = {name: Side(f"{SIDES}:environment") for name in "AB"}

    runs = alternate(sides, repeats=3, afresh=afresh)

    assert len({figures["process"] for side in runs.values() for figures in side}) == processes


def test_side__peak_is_of_the_process() -> None:
    small, large = (Side(f"{SIDES}:fill", {"mega": mega}).run() for mega in (1, 300))

    assert 200 << 20 < large["peak_bytes"] - small["peak_bytes"] < 800 << 20


def test_side__is_born_without_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # as importing flows does, in this process
    monkeypatch.delitem(__import__("benchmarks").ENVIRONMENT, "GOMP_SPINCOUNT", raising=False)

    found = Side(f"{SIDES}:environment").run()

    assert (found["spin"], found["flows"]) == (0, 0)


def test_side__failure_names_the_side(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchmarkError, match=r"sides:fail failed, exit code 1"):
        Side(f"{SIDES}:fail").run()

    assert "as asked for" in capfd.readouterr().err, "its own words reach the person"


def test_spread__median_and_extremes() -> None:
    found = spread([{"seconds": value} for value in (5.0, 1.0, 2.0, 9.0)])

    assert (found.median, found.least, found.greatest) == (3.5, 1.0, 9.0)
    assert found.values == [5.0, 1.0, 2.0, 9.0]


@pytest.mark.parametrize(
    ("target", "met", "wanted"),
    [
        (Target("speed", 4.1, 4.0, "x"), True, "≥ 4 x"),
        (Target("speed", 3.9, 4.0, "x"), False, "≥ 4 x"),
        (Target("memory", 2.9, 3.0, "GiB", at_most=True), True, "≤ 3 GiB"),
        (Target("for the record", 1.0), None, "–"),
    ],
)
def test_target__met(target: Target, met: bool | None, wanted: str) -> None:
    assert (target.met, target.wanted) == (met, wanted)


def test_result__json_holds_what_makes_a_figure_believable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(tmp_path, "--quick")
    runs = {"A": [{"seconds": 2.0}, {"seconds": 4.0}], "B": [{"seconds": 1.0}, {"seconds": 1.0}]}

    Result(
        "epoch", [Target("epoch", 3.0, 4.0, "x")], runs, headline={"speedup": 3.0}, notes=["Why."]
    ).report(asked)

    written = json.loads(asked.json.read_text())
    assert (written["benchmark"], written["quick"], written["repeats"]) == ("epoch", True, 2)
    assert written["speedup"] == 3.0
    assert written["summary"]["A"]["seconds"]["median"] == 3.0
    assert written["summary"]["A"]["seconds"]["values"] == [2.0, 4.0]
    assert written["targets"][0]["met"] is False
    assert {"cpu", "cores", "memory_bytes", "gpus"} <= written["machine"].keys()
    assert {"python", "torch", "numpy", "zarr", "prefect"} <= written["versions"].keys()
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|None", str(written["commit"]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", written["date"])
    assert "missed" in capsys.readouterr().out


def test_versions__have_triton_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("torch", "triton"):
            return "1.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)

    assert versions().keys() == {"python", "torch", "triton"}


def test_options__quick_figures_never_replace_the_full_ones() -> None:
    quick, full = (
        Options.of(parser("epoch", "doc").parse_args(arguments)) for arguments in (["--quick"], [])
    )

    assert quick.json != full.json
    assert full.json.parts[-3:] == ("benchmarks", "results", "epoch.json")


def test_guarded__says_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise BenchmarkError("no CUDA device.\n  Fix: run it elsewhere.")

    assert guarded(refuse) == 2
    assert "Fix: run it elsewhere." in capsys.readouterr().err


def test_result__says_to_which_instructions_it_was_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(harness, "instruction_limit", instruction_limit)

    record = Result("epoch", [], {}).record(options(tmp_path))

    assert record["benchmark"] == "epoch, AVX2"
    assert record["machine"]["limits"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
