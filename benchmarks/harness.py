"""The common parts of all benchmarks: sides in fresh processes, medians, table, JSON.

A benchmark is a module of this package that is run with `python -m benchmarks.<name>`:

    def main(argv: list[str] | None = None) -> None:
        options = Options.of(parser("storage", __doc__).parse_args(argv))
        with scratch(options) as folder:
            sides = {
                "baseline": Side("benchmarks.storage:raw_file", {"folder": str(folder)}),
                "ours": Side("benchmarks.storage:zarr", {"folder": str(folder)}),
            }
            runs = alternate(sides, repeats=options.repeats)
        baseline, ours = spread(runs["baseline"]), spread(runs["ours"])
        target = Target("features written, share of a raw file", baseline.median / ours.median, 0.8)
        Result("storage", targets=[target], runs=runs).report(options)

    if __name__ == "__main__":
        sys.exit(guarded(main))

A side is a function, named `module:function`, with JSON values as arguments. It runs in a separate
process (`benchmarks.side`) that starts from the user's environment and does nothing else. There is
a new process for each run, or a single one for all turns (`alternate(..., afresh=False)`) if a real
program would repeat the work in one process.

A side returns its figures, which are numbers by name. `seconds` is the time of the call, unless the
function returns its own value, and `peak_bytes` is added. Neither includes imports. The module of a
benchmark must therefore import nothing at its top that takes long or changes settings, above all
not `flows`. Sides that need it are in a separate module, or import it in their function.

`alternate` runs A B A B A B, so that a machine that slows down affects both sides. `Result.report`
prints the table and writes everything, with machine, versions, commit and date, as JSON.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from benchmarks import ENVIRONMENT
from benchmarks.machine import ROOT, commit, instruction_limit, machine, versions
from benchmarks.options import Options
from benchmarks.side import peak_memory_bytes
from deepcluster_core.errors import DeepClusterError

LOOK_EVERY_S = 0.05
"""Seconds between two looks at the memory of a side."""

VERDICTS = {True: "met", False: "missed", None: ""}
"""Words for whether a bound is met; None stands for a value without a bound."""

Figures = dict[str, float]
Runs = dict[str, list[Figures]]
"""The figures of all runs, by side."""


class BenchmarkError(DeepClusterError):
    """A benchmark cannot be run here, or one of its sides failed."""


def guarded(main: Callable[[], None]) -> int:
    """Run a benchmark. Return 0, or 2 after printing a user error."""
    try:
        main()
    except DeepClusterError as error:
        log(str(error))
        return 2
    return 0


@contextmanager
def scratch(options: Options) -> Iterator[Path]:
    """Yield a new folder for temporary data, and delete it at the end."""
    with tempfile.TemporaryDirectory(prefix="deepcluster-bench-", dir=options.scratch) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Side:
    """A function that runs in its own process."""

    target: str
    """Name of the function, `module:function`."""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of the function, as JSON values."""

    def run(self) -> Figures:
        """Run the function in a new process; return its figures, `seconds` and `peak_bytes`.

        The peak is that of the process's main memory, without processes that it starts itself.

        Raises:
            BenchmarkError: the function failed; its output is on stderr.
        """
        with Running(self) as process:
            return process.run()


class Running:
    """The process of a side."""

    def __init__(self, side: Side) -> None:
        """Start the process, and wait until its imports are finished.

        Raises:
            BenchmarkError: the imports failed.
        """
        self._side = side
        self._runs = 0
        self._folder = tempfile.TemporaryDirectory(prefix="deepcluster-side-")
        arguments = json.dumps(side.arguments)
        command = [sys.executable, "-m", "benchmarks.side", side.target, arguments]
        self._process = subprocess.Popen(  # noqa: S603  our own words
            command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE
        )
        try:
            self._ask("imported")
        except BenchmarkError:
            # `with` ends a process only after it was started without errors.
            self.__exit__()
            raise

    def run(self) -> Figures:
        """Run the function once; see `Side.run`."""
        self._runs += 1
        answer, peak_bytes = self._ask(f"{self._runs}.json")
        figures = json.loads(answer.read_text())
        return figures | {"peak_bytes": max(peak_bytes, figures["peak_bytes"])}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Nothing is lost: the figures of all runs have been read.
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _ask(self, name: str) -> tuple[Path, int]:
        """Let the process write a file; return it and the peak of memory meanwhile, bytes.

        The peak is read repeatedly, because every stage resets the counter when it begins.
        """
        answer = Path(self._folder.name) / name
        process = self._process
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended, which is reported below
            process.stdin.write(f"{answer}\n".encode())
            process.stdin.flush()
        peak_bytes = 0
        # The side replaces the file in one step, so that it is complete once it exists.
        while not answer.exists():
            if process.poll() is not None:
                raise BenchmarkError(f"{self._side.target} failed, exit code {process.returncode}.")
            peak_bytes = max(peak_bytes, peak_memory_bytes(process.pid))
            time.sleep(LOOK_EVERY_S)
        return answer, peak_bytes


def alternate(
    sides: Mapping[str, Side], *, repeats: int, afresh: bool = True, budget_s: float | None = None
) -> Runs:
    """Run every side `repeats` times, in turns; return the figures of all runs by side.

    Args:
        sides: sides by name, in the order of a turn.
        repeats: number of turns.
        afresh: whether every run has its own process. If not, a side keeps one process for all its
            turns, which sleeps while the other sides run.
        budget_s: time after which no turn should end, seconds. Turns that would probably end later
            are left out, except for the first, and the caller must report how many ran. None runs
            all turns.
    """
    runs: Runs = {name: [] for name in sides}
    start = time.perf_counter()
    with ExitStack() as stack:
        # A side starts a new process for each run; a running one keeps its process.
        runners: dict[str, Side | Running] = dict(sides)
        if not afresh:
            for name, side in sides.items():
                runners[name] = stack.enter_context(Running(side))
        for turn in range(repeats):
            used_s = time.perf_counter() - start
            if turn > 0 and budget_s is not None:
                # The next turn probably takes as long as the ones so far did on average.
                expected_s = used_s * (turn + 1) / turn
                if expected_s > budget_s:
                    break
            for name, runner in runners.items():
                figures = runner.run()
                runs[name].append(figures)
                seconds = figures["seconds"]
                log(f"  turn {turn + 1} of {repeats}, {name}: {seconds:.2f} s")
    return runs


@dataclass(frozen=True)
class Spread:
    """The values of one figure over all runs."""

    median: float
    least: float
    greatest: float
    values: list[float]


def spread(runs: Sequence[Figures], figure: str = "seconds") -> Spread:
    """Return the median and the extremes of one figure over runs."""
    values = [float(run[figure]) for run in runs]
    return Spread(statistics.median(values), min(values), max(values), values)


@dataclass(frozen=True)
class Target:
    """A measured value and the bound that it should reach."""

    what: str
    value: float
    bound: float | None = None
    """The bound; None if the value is only recorded."""
    unit: str = ""
    at_most: bool = False
    """Whether the bound is an upper bound."""

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None without a bound."""
        if self.bound is None:
            return None
        if self.at_most:
            return self.value <= self.bound
        return self.value >= self.bound

    @property
    def wanted(self) -> str:
        """The bound as text."""
        if self.bound is None:
            return "–"
        sign = "≤" if self.at_most else "≥"
        return f"{sign} {readable(self.bound)}{self.suffix}"

    @property
    def reached(self) -> str:
        """The value as text."""
        return f"{readable(self.value)}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The unit behind a number."""
        return f" {self.unit}" if self.unit else ""


@dataclass(frozen=True)
class Result:
    """The result of a benchmark."""

    name: str
    targets: Sequence[Target]
    runs: Mapping[str, Sequence[Figures]]
    """Figures of every run, by side."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Sizes and choices on which the figures depend."""
    headline: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Figures at the top level of the JSON."""
    notes: Sequence[str] = ()
    """Sentences that explain the figures."""

    def report(self, options: Options) -> None:
        """Print the table and write the JSON."""
        console = Console(highlight=False, soft_wrap=True, markup=False)
        console.print(_runs_table(self.runs))
        console.print(_targets_table(self.targets))
        for note in self.notes:
            console.print(note)
        text = json.dumps(self.record(options), indent=2)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(f"{text}\n")
        console.print(f"written: {options.json}")

    def record(self, options: Options) -> dict[str, Any]:
        """Return everything as JSON values."""
        summary = {side: _summary(runs) for side, runs in self.runs.items()}
        limit = instruction_limit()
        return {
            "benchmark": self.name if limit is None else f"{self.name}, {limit}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "quick": options.quick,
            "commit": commit(),
            # A quick run that is short of time leaves turns out.
            "repeats": min(map(len, self.runs.values()), default=0),
            **self.headline,
            "targets": [asdict(target) | {"met": target.met} for target in self.targets],
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "summary": summary,
            "machine": machine(),
            "versions": versions(),
        }


def log(text: str) -> None:
    """Print a line of progress on stderr."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text)


def readable(value: float) -> str:
    """Return a number with three significant digits, or as a whole number from 100 on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _common(runs: Sequence[Figures]) -> list[str]:
    """Return the names of the figures that every run of a side has."""
    common: list[str] = []
    for name in runs[0] if runs else {}:
        if all(name in run for run in runs):
            common.append(name)
    return common


def _summary(runs: Sequence[Figures]) -> dict[str, dict[str, Any]]:
    """Return median, extremes and values of each figure, as JSON values."""
    return {name: asdict(spread(runs, name)) for name in _common(runs)}


def _runs_table(runs: Mapping[str, Sequence[Figures]]) -> Table:
    table = Table("side", "figure", "median", "least", "greatest", "runs", box=None, pad_edge=False)
    for side, figures in runs.items():
        for name in _common(figures):
            found = spread(figures, name)
            values = (found.median, found.least, found.greatest)
            texts = [_in_unit(name, value) for value in values]
            table.add_row(side, name, *texts, str(len(found.values)))
    return table


def _in_unit(name: str, value: float) -> str:
    """Return a figure as text, with bytes in GiB; the JSON keeps bytes."""
    if name.endswith("_bytes"):
        return f"{value / 2**30:.2f} GiB"
    return readable(value)


def _targets_table(targets: Sequence[Target]) -> Table:
    table = Table("what", "reached", "target", "", box=None, pad_edge=False)
    for target in targets:
        verdict = VERDICTS[target.met]
        table.add_row(target.what, target.reached, target.wanted, verdict)
    return table
