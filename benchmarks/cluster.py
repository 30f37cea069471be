"""The cluster stage: against faiss on an array in memory, and over more and more features.

Against faiss: 200,000 x 4,096 features. Ours reads them as float16 from disk, reduces them to 256
dimensions, runs k-means with k = 1,000 and commits the label table. The baseline is `PCAMatrix` and
`faiss.Kmeans` called on a float32 array that lies in memory.

Growing: 125,000 to 1,000,000 x 1,024 features from disk; seconds a row must stay what they were,
and memory must not grow with the features.
"""

import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Figures,
    Options,
    Result,
    Side,
    Target,
    alternate,
    guarded,
    parser,
    say,
    scratch,
    spread,
)

SHAPE, QUICK_SHAPE = (
    {"count": 200_000, "dim": 4096, "k": 1000},
    {"count": 8192, "dim": 1024, "k": 100},
)
COUNTS, QUICK_COUNTS = (125_000, 250_000, 500_000, 1_000_000), (8192, 16_384)
GROWING, QUICK_GROWING = {"dim": 1024, "k": 1000}, {"dim": 512, "k": 100}
GIB = 2**30
BOUND = 0.15
GROWN_BOUND_GIB = 3.0
REDUCED_BYTES = 256 * 4
"""Size of a reduced row, bytes."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    options = Options.of(parser("cluster", __doc__).parse_args(argv))
    shape, growing = (QUICK_SHAPE, QUICK_GROWING) if options.quick else (SHAPE, GROWING)
    counts = QUICK_COUNTS if options.quick else COUNTS
    with scratch(options) as folder:
        sides = {
            "faiss in memory": Side("benchmarks.baseline_sides:clustering", shape),
            "ours": _ours(folder / "shape", **shape),
        }
        against = alternate(sides, repeats=options.repeats)
    with scratch(options) as folder:
        sides = {
            _name(count): _ours(folder / str(count), count=count, **growing) for count in counts
        }
        grown = alternate(sides, repeats=options.repeats)
    Result(
        "cluster",
        [
            *_against(against, shape["count"], quick=options.quick),
            *growth(grown, counts, quick=options.quick),
        ],
        against | grown,
        settings={"against": shape, "growing": {**growing, "counts": counts}},
        notes=["Peaks are of the whole process, about 0.6 GiB of it imports and their threads."],
    ).tell(options)


def _ours(folder: Path, *, count: int, dim: int, k: int) -> Side:
    say(f"writing {count:,} x {dim:,} features")
    given: dict[str, Any] = {"run": str(folder), "count": count, "dim": dim}
    Side("benchmarks.ours:write_random_run", given).run()
    return Side("benchmarks.ours:clustering", {"run": str(folder), "k": k})


def _name(count: int) -> str:
    return f"{count:,} rows"


def _against(runs: dict[str, list[Figures]], count: int, *, quick: bool) -> list[Target]:
    baseline, ours = (spread(runs[side]).median for side in ("faiss in memory", "ours"))
    peak = spread(runs["ours"], "peak_bytes").greatest / GIB
    bound = count * REDUCED_BYTES / GIB + 1.5
    return [
        # PCA of so few dimensions, where faiss has no long start, is another problem.
        Target("against faiss in memory", baseline / ours, None if quick else 1.0, "x"),
        Target(f"peak memory, {_name(count)}", peak, bound, "GiB", at_most=True),
    ]


def growth(runs: dict[str, list[Figures]], counts: tuple[int, ...], *, quick: bool) -> list[Target]:
    """Return how far from linear the time is, what a row costs at each size, and the peak."""
    each_us = [1e6 * spread(runs[_name(count)]).median / count for count in counts]
    middle_us = (max(each_us) + min(each_us)) / 2
    away = 100 * (max(each_us) / middle_us - 1)
    peak = spread(runs[_name(counts[-1])], "peak_bytes").greatest / GIB
    # Small sizes show that it runs: the fixed part weighs there.
    bound = None if quick else 100 * BOUND
    return [
        Target("farthest from linear in the rows", away, bound, "%", at_most=True),
        *(
            Target(f"a row, of {count:,}", us, unit="µs")
            for count, us in zip(counts, each_us, strict=True)
        ),
        Target(f"peak memory, {_name(counts[-1])}", peak, GROWN_BOUND_GIB, "GiB", at_most=True),
    ]


if __name__ == "__main__":
    sys.exit(guarded(main))
