"""The GPU benchmark on a CPU: that each line works, and that what is known is always written."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_lines, gpu_parts, harness
from benchmarks.gpu_lines import LINES, Line
from benchmarks.gpu_parts import Bench, Sizes
from benchmarks.harness import BenchmarkError
from deepcluster_core.device_feed.feed import FedBatch, Feed, Request
from deepcluster_core.errors import ConfigError
from stages.extract import ExtractConfig

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
    loads = count(0.5)
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    run(tmp_path / "out.json")
    lines[1] = Line("second", "s", None, lambda _: 2.0)

    records = run(tmp_path / "out.json", "--only", "second")

    assert [(record["name"], record["found"]) for record in records] == [
        ("first", 1),
        ("second", 2),
    ]
    with pytest.raises(BenchmarkError, match="no such line"):
        run(tmp_path / "out.json", "--only", "thrid")


def test_main__a_whole_name_stands_for_its_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("step", "step, graph", "copy")
    monkeypatch.setattr(gpu, "LINES", [Line(name, "s", None, lambda _: 1.0) for name in names])

    whole = run(tmp_path / "whole.json", "--only", "step")
    beginning = run(tmp_path / "beginning.json", "--only", "ste")

    assert [record["name"] for record in whole] == ["step"]
    assert [record["name"] for record in beginning] == ["step", "step, graph"]


class Replaced(BaseException):
    """Stands for a process that another one has replaced."""


def test_main__goes_on_in_a_new_process_when_the_gpu_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    commands: list[list[str]] = []
    measured: list[str] = []
    is_usable = True

    def execv(program: str, command: list[str]) -> None:
        assert program == sys.executable
        commands.append(command)
        raise Replaced

    def broken(_: Bench) -> float:
        nonlocal is_usable
        measured.append("step, graph")
        is_usable = False
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def later(name: str) -> Line:
        def measure(_: Bench) -> float:
            assert is_usable, "the error of another line"
            measured.append(name)
            return 2.0

        return Line(name, "ms", None, measure)

    lines = (later("copy"), Line("step, graph", "ms", None, broken), later("step"), later("eigh"))
    monkeypatch.setattr(gpu, "LINES", lines)
    monkeypatch.setattr(Bench, "is_usable", lambda _self: is_usable)
    monkeypatch.setattr(os, "execv", execv)
    # The commit of a checkout changes once a result that it has is written again.
    commits = iter(["clean", "clean"])
    monkeypatch.setattr(harness, "commit", lambda: next(commits, "clean+changes"))

    with pytest.raises(Replaced):
        run(out, "--budget-s", "600")
    (command,) = commands
    is_usable = True
    gpu.main(command[3:])

    assert command[:3] == [sys.executable, "-m", "benchmarks.gpu"]
    left_s = command[len(command) - command[::-1].index("--budget-s")]
    assert 0 < float(left_s) < 600
    assert measured == ["copy", "step, graph", "step", "eigh"], "each line was measured once"
    records = json.loads(out.read_text())["lines"]
    assert [record["found"] for record in records] == [2, None, 2, 2]
    assert records[1]["error"].startswith("RuntimeError: CUDA error")


def test_is_usable__not_if_every_call_of_cuda_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)

    assert not Bench("cuda", Sizes.quick(), 1).is_usable()
    assert Bench("cpu", Sizes.quick(), 1).is_usable()


def test_kernels__are_not_replaced_by_operations_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_parts, "missing_for_triton", lambda: "the package triton")
    bench = Bench("cuda", Sizes.quick(), 1)

    assert bench.settings()["missing_for_triton"] == "the package triton"
    for line in LINES:
        if line.name.startswith(("crop kernel", "Sobel's filter, one kernel")):
            with pytest.raises(BenchmarkError, match="Triton needs the package triton"):
                line.measure(bench)


def test_cluster_line__notices_first_that_faiss_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError("features were drawn")

    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(Bench, "random", draw)
    (line,) = (line for line in LINES if line.name.endswith("faiss"))

    with pytest.raises(ConfigError, match="the package faiss"):
        line.measure(Bench("cpu", Sizes.quick(), 1))


def test_extraction__also_as_the_stage_does_it_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Sizes().stage_batch == ExtractConfig().batch_size
    fed: list[tuple[set[int], int]] = []
    batches = Feed.batches

    def noted(self: Feed, requests: Iterable[Request], *, workers: int) -> Iterator[FedBatch]:
        given = list(requests)
        fed.append(({len(request.image_id_B) for request in given}, workers))
        return batches(self, given, workers=workers)

    monkeypatch.setattr(Feed, "batches", noted)
    monkeypatch.setattr(gpu_lines, "num_cores", lambda: 7)
    monkeypatch.setattr(gpu_parts, "num_cores", lambda: 7)
    bench = Bench("cpu", Sizes.quick(), 1)

    for line in LINES:
        if line.name.startswith("extraction, grey"):
            assert line.measure(bench) > 0

    assert fed == [({16}, 4), ({8}, 7)]


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
