"""Time and memory of what people do with a finished run: table, sort, pick, duplicates, report.

The run has random pictures of 32 pixels a side, and is clustered once without training. A side is a
process of its own, and does what the command does after its imports.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.harness import Result, Runs, Side, Target, alternate, guarded, scratch, spread
from benchmarks.options import Options, parser

SIDES = ("table", "table_with_pictures", "sort", "pick", "duplicates", "report")
BOUND_BYTES_EACH = 40_000
"""Bound on the memory of a side for each image, beside `BASE_BYTES`."""
BASE_BYTES = 2 << 30
"""Memory of a process with the libraries, before it reads any image."""


@dataclass(frozen=True)
class Sizes:
    """The numbers of images of the runs."""

    images: tuple[int, ...]


FULL = Sizes(images=(10_000, 100_000))
QUICK = Sizes(images=(1000,))


def main(argv: list[str] | None = None, *, quick_sizes: Sizes = QUICK) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    options = Options.of(parser("people", __doc__, repeats=3).parse_args(argv))
    sizes = options.size(FULL, quick_sizes)
    runs: Runs = {}
    targets: list[Target] = []
    for num_images in sizes.images:
        with scratch(options) as folder:
            place = {"folder": str(folder)}
            _side("prepare", place | {"num_images": num_images}).run()  # not measured
            sides = {f"{name}, {num_images:,} images": _side(name, place) for name in SIDES}
            found = alternate(sides, repeats=options.repeats)
        runs |= found
        bound = BASE_BYTES + BOUND_BYTES_EACH * num_images
        for title, figures in found.items():
            peak = spread(figures, "peak_bytes").median
            targets.append(Target(f"{title}, memory / bound", peak / bound, 1.0, at_most=True))
    Result(
        "people",
        targets,
        runs,
        settings={"images": sizes.images},
        notes=["Imports are not timed; the memory is that of the whole process."],
    ).report(options)


def _side(function: str, arguments: Mapping[str, str | int]) -> Side:
    return Side(f"benchmarks.people_sides:{function}", dict(arguments))


if __name__ == "__main__":
    sys.exit(guarded(main))
