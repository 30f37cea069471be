"""The cluster stage: against faiss on an array in memory, and over more and more features.

Against faiss: 200,000 x 4,096 features. Ours reads them as float16 from disk, reduces them to 256
dimensions, runs k-means with k = 1,000 and commits the label table. The baseline is `PCAMatrix` and
`faiss.Kmeans` called on a float32 array that lies in memory.

Growing: 125,000 to 1,000,000 x 1,024 features from disk; seconds a row must stay what they were,
and memory must not grow with the features.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Result,
    Runs,
    Side,
    Target,
    alternate,
    guarded,
    log,
    scratch,
    spread,
)
from benchmarks.options import Options, parser


@dataclass(frozen=True)
class Sizes:
    """The sizes of both parts of the benchmark."""

    against: dict[str, int]
    """Rows, dimensions and clusters of the comparison with faiss."""
    growing: dict[str, int]
    """Dimensions and clusters while the number of rows grows."""
    counts: tuple[int, ...]
    """The growing numbers of rows."""


FULL = Sizes(
    {"count": 200_000, "dim": 4096, "k": 1000},
    {"dim": 1024, "k": 1000},
    (125_000, 250_000, 500_000, 1_000_000),
)
QUICK = Sizes(
    {"count": 8192, "dim": 1024, "k": 100},
    {"dim": 512, "k": 100},
    (8192, 16_384),
)
GIB = 2**30
BOUND = 0.15
GROWN_BOUND_GIB = 3.0
REDUCED_BYTES = 256 * 4
"""Size of a reduced row, bytes."""


def main(argv: list[str] | None = None, *, quick_sizes: Sizes = QUICK) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    options = Options.of(parser("cluster", __doc__).parse_args(argv))
    sizes = options.size(FULL, quick_sizes)
    with scratch(options) as folder:
        sides = {
            "faiss in memory": Side("benchmarks.baseline_sides:clustering", sizes.against),
            "ours": _ours(folder / "shape", **sizes.against),
        }
        against = alternate(sides, repeats=options.repeats)
    # The first features are deleted before the growing ones are written, to save space.
    with scratch(options) as folder:
        sides = {
            _name(count): _ours(folder / str(count), count=count, **sizes.growing)
            for count in sizes.counts
        }
        grown = alternate(sides, repeats=options.repeats)
    Result(
        "cluster",
        [
            *_against(against, sizes.against["count"], quick=options.quick),
            *growth(grown, sizes.counts, quick=options.quick),
        ],
        against | grown,
        settings={
            "against": sizes.against,
            "growing": {**sizes.growing, "counts": sizes.counts},
        },
        notes=["Peaks are of the whole process, about 0.6 GiB of it imports and their threads."],
    ).report(options)


def _ours(folder: Path, *, count: int, dim: int, k: int) -> Side:
    """Write random features, and return the side that clusters them."""
    log(f"writing {count:,} x {dim:,} features")
    arguments: dict[str, Any] = {"run": str(folder), "count": count, "dim": dim}
    Side("benchmarks.ours:write_random_run", arguments).run()
    return Side("benchmarks.ours:clustering", {"run": str(folder), "k": k})


def _name(count: int) -> str:
    return f"{count:,} rows"


def _against(runs: Runs, count: int, *, quick: bool) -> list[Target]:
    baseline_s = spread(runs["faiss in memory"]).median
    ours_s = spread(runs["ours"]).median
    # A PCA of few dimensions is a different problem: faiss has no long start there.
    bound = None if quick else 1.0
    peak_gib = spread(runs["ours"], "peak_bytes").greatest / GIB
    # All reduced rows are in memory at once.
    peak_bound_gib = count * REDUCED_BYTES / GIB + 1.5
    return [
        Target("against faiss in memory", baseline_s / ours_s, bound, "x"),
        Target(f"peak memory, {_name(count)}", peak_gib, peak_bound_gib, "GiB", at_most=True),
    ]


def growth(runs: Runs, counts: tuple[int, ...], *, quick: bool) -> list[Target]:
    """Return how far from linear the time is, what a row costs at each size, and the peak."""
    row_us: dict[int, float] = {}
    for count in counts:
        seconds = spread(runs[_name(count)]).median
        row_us[count] = 1e6 * seconds / count
    slowest_us = max(row_us.values())
    middle_us = (slowest_us + min(row_us.values())) / 2
    percent_away = 100 * (slowest_us / middle_us - 1)
    # With small sizes, the fixed part of the time makes a row expensive.
    bound = None if quick else 100 * BOUND
    largest = _name(counts[-1])
    peak_gib = spread(runs[largest], "peak_bytes").greatest / GIB
    targets = [Target("farthest from linear in the rows", percent_away, bound, "%", at_most=True)]
    for count, us in row_us.items():
        targets.append(Target(f"a row, of {count:,}", us, unit="µs"))
    targets.append(
        Target(f"peak memory, {largest}", peak_gib, GROWN_BOUND_GIB, "GiB", at_most=True)
    )
    return targets


if __name__ == "__main__":
    sys.exit(guarded(main))
