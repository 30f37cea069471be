"""What was predicted for one GPU beside what is found, in at most 12 minutes.

AlexNet with Sobel, 256 images in a step, k = 10,000, features of 4,096 values, as many images as
ImageNet has. First each part alone, then feed and network together: extraction and training from
packed images in main memory, and the cluster stage on random features. Predictions are arithmetic,
for an H100 (800 TFLOP/s in bfloat16, 3 TB/s, 50 GB/s from main memory); nothing was measured.

The JSON file is written after each line, so that a run that is cut off still counts. A line that
fails, such as one whose package is not installed, is recorded with its error; if the error leaves
the GPU unusable for this process, a new one measures the remaining lines. It needs torch, numpy,
scipy, safetensors, rich and pydantic, but no images, and no zarr, pyarrow, faiss or Prefect.
With google_crc32c, extraction compares the checksum of each image, as the stage does; `verified` in
the settings says whether it did.
With `--device cpu --quick` it shows only that it works.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from rich.console import Console

from benchmarks.gpu_lines import LINES, Line
from benchmarks.gpu_parts import Bench, Sizes
from benchmarks.harness import BenchmarkError, Result, Target, guarded, readable
from benchmarks.options import Options, parser

BUDGET_S = 720


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its lines and write its JSON file."""
    arguments = parser("gpu", __doc__, repeats=5)
    arguments.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    arguments.add_argument(
        "--budget-s",
        type=float,
        default=BUDGET_S,
        help="no line begins after so many seconds (default: %(default)s)",
    )
    arguments.add_argument("--only", nargs="+", help="names of lines, or beginnings of names")
    # For a process that takes the place of another one.
    arguments.add_argument("--continued", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args(argv)
    options = Options.of(given)
    _check(given.device)
    sizes = options.size(Sizes(), Sizes.quick())
    bench = Bench(given.device, sizes, options.repeats)
    chosen = _chosen(given.only)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{'line':<44}{'predicted':>14}{'found':>14}  unit")
    started_s = time.monotonic()
    records: dict[str, dict[str, Any]] = {}
    if given.only:
        records = _measured_before(options, bench, is_continued=given.continued)
    for number, line in enumerate(chosen, start=1):
        begun_s = time.monotonic() - started_s
        record = _measured(line, bench) if begun_s < given.budget_s else _left_out(line)
        records[line.name] = record
        console.print(_text(line, record))
        _write(options, records, bench)
        remaining = chosen[number:]
        if remaining and not bench.is_usable():
            console.print("the GPU is unusable for this process; a new one measures the rest")
            left_s = given.budget_s - (time.monotonic() - started_s)
            _continue_in_new_process(sys.argv[1:] if argv is None else argv, remaining, left_s)
    console.print(f"written: {options.json}")


def _check(device: str) -> None:
    """Raise BenchmarkError if the device cannot be used."""
    import torch  # noqa: PLC0415  slow, and not needed for --help

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BenchmarkError(
            "this machine has no CUDA device, which the gpu benchmark needs.\n"
            "  Fix: run it where torch.cuda.is_available(), or try it: --device cpu --quick"
        )


def _chosen(only: Sequence[str] | None) -> list[Line]:
    """Return the lines that were asked for, in order; a whole name stands for its line alone.

    Raises:
        BenchmarkError: no line has such a name.
    """
    if only is None:
        return list(LINES)
    names = [line.name for line in LINES]

    def is_chosen(name: str) -> bool:
        return any(name == given if given in names else name.startswith(given) for given in only)

    chosen = [line for line in LINES if is_chosen(line.name)]
    if not chosen:
        raise BenchmarkError(
            f"--only {' '.join(only)}: no such line.\n  Fix: one of {', '.join(names)}"
        )
    return chosen


def _continue_in_new_process(
    arguments: Sequence[str], lines: Sequence[Line], budget_s: float
) -> NoReturn:
    """Replace this process by one that measures the remaining lines and keeps the other ones.

    A process that only waited for another one would keep its memory of the GPU.

    Args:
        arguments: the command line of this process.
        lines: the lines to measure.
        budget_s: what is left of the time, seconds.
    """
    # Of an option that is given twice, the last value counts.
    more = ["--continued", "--budget-s", f"{max(0.0, budget_s):.1f}"]
    more += ["--only", *(line.name for line in lines)]
    sys.stdout.flush()
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments, *more]
    os.execv(sys.executable, command)  # noqa: S606  our own words


def _measured(line: Line, bench: Bench) -> dict[str, Any]:
    """Measure a line; an error becomes part of the record, because later lines may still work."""
    begun_s = time.monotonic()
    value, error = None, None
    try:
        value = line.measure(bench)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    with suppress(RuntimeError):  # a device on which an error has left nothing usable
        bench.tidy()
    return _record(line, value, error, time.monotonic() - begun_s)


def _left_out(line: Line) -> dict[str, Any]:
    return _record(line, None, "left out: the time is up", 0.0)


def _record(line: Line, value: float | None, error: str | None, seconds: float) -> dict[str, Any]:
    return {
        "name": line.name,
        "unit": line.unit,
        "predicted": line.predicted,
        "target": line.target,
        "stretch": line.stretch,
        "found": value,
        "error": error,
        "took_s": round(seconds, 1),
    }


def _text(line: Line, record: dict[str, Any]) -> str:
    found = "–" if record["found"] is None else readable(record["found"])
    text = f"{line.name:<44}{line.predicted or '–':>14}{found:>14}  {line.unit}"
    if line.target is not None and record["found"] is not None:
        sign = "≤" if line.at_most else "≥"
        text += f"  (target {sign} {readable(line.target)}, stretch {readable(line.stretch or 0)})"
    if record["error"]:
        text += f"  {record['error'].splitlines()[0]}"
    return text


def _measured_before(
    options: Options, bench: Bench, *, is_continued: bool
) -> dict[str, dict[str, Any]]:
    """Return the records of an earlier call with the same settings on the same code and machine.

    Args:
        options: where the records are.
        bench: device and sizes.
        is_continued: whether the earlier call was this one, in another process.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = json.loads(options.json.read_text())
        same = Result("gpu", [], {}, settings=bench.settings(), headline={}, notes=[])
        now = json.loads(json.dumps(same.record(options)))
        if is_continued or _conditions(found) == _conditions(now):
            return {record["name"]: record for record in found["lines"]}
    return {}


def _conditions(record: Mapping[str, Any]) -> list[Any]:
    """Return under which conditions lines were measured; all must be equal to keep them."""
    # The load is never the same twice.
    machine = {name: value for name, value in record["machine"].items() if name != "load"}
    return [record["settings"], record["commit"], machine]


def _write(options: Options, records: Mapping[str, dict[str, Any]], bench: Bench) -> None:
    """Write everything that is known so far, in the order of the lines."""
    targets: list[Target] = []
    known = [line for line in LINES if line.name in records]
    for line in known:
        found = records[line.name]["found"]
        # Bounds are for the full size on a GPU.
        is_full = not options.quick and bench.device.type == "cuda"
        bound = line.target if is_full else None
        if found is not None:
            targets.append(Target(line.name, found, bound, line.unit, line.at_most))
    result = Result(
        "gpu",
        targets,
        {},
        settings=bench.settings(),
        headline={"lines": [records[line.name] for line in known]},
        notes=[],
    )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result.record(options), indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(guarded(main))
