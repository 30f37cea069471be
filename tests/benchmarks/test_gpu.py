"""The GPU benchmark on a CPU: that each line works, and that what is known is always written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_lines import LINES, Line
from benchmarks.gpu_parts import Bench
from benchmarks.harness import BenchmarkError

WITHOUT_A_PACKAGE = {"JPEG", "step, compiled"}
"""Beginnings of the names of lines that need torchvision or a compiler."""


def run(out: Path, *more: str) -> list[dict[str, object]]:
    options = ["--device", "cpu", "--quick", "--repeats", "1", "--json", str(out), *more]
    gpu.main(options)
    return json.loads(out.read_text())["lines"]


@pytest.mark.slow
def test_main__measures_every_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [line.name for line in LINES if not line.name.startswith(tuple(WITHOUT_A_PACKAGE))]

    records = run(tmp_path / "out.json", "--only", *names)

    assert [record["name"] for record in records] == names
    for record in records:
        assert record["error"] is None, record
        assert isinstance(record["found"], float)
        assert record["found"] > 0
    printed = capsys.readouterr().out
    assert "60,000-80,000" in printed
    assert "target ≥ 40,000, stretch 80,000" in printed
    targets = json.loads((tmp_path / "out.json").read_text())["targets"]
    assert {target["bound"] for target in targets} == {None}, "a CPU has no bounds"


def test_main__goes_on_after_an_error_and_writes_each_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    seen: list[int] = []

    def broken(_: Bench) -> float:
        raise RuntimeError("out of memory")

    def second(_: Bench) -> float:
        seen.append(len(json.loads(out.read_text())["lines"]))
        return 2.0

    lines = (Line("first", "ms", "1", broken), Line("second", "ms", "2", second))
    monkeypatch.setattr(gpu, "LINES", lines)

    records = run(out)

    assert seen == [1], "the first line was written before the second began"
    assert records[0]["error"] == "RuntimeError: out of memory"
    assert records[1]["found"] == 2


def test_main__leaves_lines_out_when_the_time_is_up(tmp_path: Path) -> None:
    records = run(tmp_path / "out.json", "--budget-s", "0")

    assert {record["error"] for record in records} == {"left out: the time is up"}


def test_main__one_line_again_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [Line(name, "s", None, lambda _: 1.0) for name in ("first", "second")]
    monkeypatch.setattr(gpu, "LINES", lines)
    run(tmp_path / "out.json")
    lines[1] = Line("second", "s", None, lambda _: 2.0)

    records = run(tmp_path / "out.json", "--only", "second")

    assert [(record["name"], record["found"]) for record in records] == [
        ("first", 1),
        ("second", 2),
    ]
    with pytest.raises(BenchmarkError, match="no such line"):
        run(tmp_path / "out.json", "--only", "thrid")


@pytest.mark.slow
def test_gpu_lines__need_few_packages() -> None:
    # A machine that is rented for minutes has torch and little else.
    program = (
        "import sys\n"
        "for name in ('pyarrow', 'zarr', 'faiss', 'prefect', 'pandas', 'google_crc32c',\n"
        "             'torchvision', 'filelock', 'typer'):\n"
        "    sys.modules[name] = None\n"
        "import benchmarks.gpu\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run")
def test_main__refuses_without_a_device(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"no CUDA device.*\n.*Fix:"):
        gpu.main(["--quick", "--json", str(tmp_path / "out.json")])
