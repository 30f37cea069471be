"""The options of the command line that all benchmarks have."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from benchmarks.machine import ROOT, num_cores

RESULTS = Path(__file__).parent / "results"

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The values of the options that all benchmarks have."""

    quick: bool
    """Whether to use small sizes, which show only that it runs, and the order of magnitude."""
    repeats: int
    json: Path
    scratch: Path | None
    """Folder for temporary data; None for the system's."""

    @classmethod
    def of(cls, given: argparse.Namespace) -> Self:
        """Return the options from parsed arguments."""
        folder = RESULTS / "quick" if given.quick else RESULTS
        json_file = given.json or folder / f"{given.benchmark}.json"
        scratch_folder = given.scratch
        if scratch_folder is not None:
            scratch_folder = scratch_folder.resolve()  # sides run in a different folder
        return cls(given.quick, given.repeats, json_file, scratch_folder)

    def size(self, full: T, quick: T) -> T:
        """Return the size that was asked for: `quick` with `--quick`, and `full` without."""
        return quick if self.quick else full


def parser(name: str, doc: str | None, *, repeats: int = 3) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all benchmarks have; a benchmark may add its own.

    Args:
        name: name of the benchmark's module and of its JSON file.
        doc: docstring of the benchmark's module.
        repeats: default number of repeats.
    """
    arguments = argparse.ArgumentParser(
        f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.set_defaults(benchmark=name)
    arguments.add_argument("--quick", action="store_true", help="small sizes, at most two minutes")
    arguments.add_argument(
        "--repeats", type=positive, default=repeats, help=f"runs of each side (default: {repeats})"
    )
    default = RESULTS.relative_to(ROOT) / f"{name}.json"
    arguments.add_argument("--json", type=Path, help=f"file to write (default: {default})")
    arguments.add_argument("--scratch", type=Path, help="folder for temporary data")
    return arguments


def add_images(arguments: argparse.ArgumentParser, *, full: int, quick: int) -> None:
    """Add the option `--images`, whose default depends on `--quick`."""
    arguments.add_argument(
        "--images",
        type=positive,
        help=f"number of pictures (default: {full}, with --quick {quick})",
    )


def add_workers(arguments: argparse.ArgumentParser) -> None:
    """Add the option `--workers` of the baseline, one for each core by default."""
    arguments.add_argument(
        "--workers",
        type=positive,
        default=num_cores(),
        help="number of processes in which the baseline loads pictures (default: %(default)s)",
    )


def positive(text: str) -> int:
    """Return the value of an argument that must be an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
