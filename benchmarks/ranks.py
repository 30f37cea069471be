"""Several ranks on one machine: what they gain, what they exchange, and what memory each needs.

`--only PART …` takes some of the parts.

Weak scaling: twice the images on two ranks, each on one core with one thread, should take as long
as the images on one rank. Extract and train run on enlarged digits with the small convnet of the
demo; in training the batch grows with the ranks. Cluster runs on random features, k = 1,000.

The bytes that two ranks exchange are those that the kernel counted, in a network of their own, and
are compared with those that the artifacts name. Behind a link of 1 Gbit/s, time is compared with
the time without it plus bytes over rate. These parts need root, and are left out without it.

Strong scaling: the same million rows on one rank and on two.

An iteration of k-means is compared with one of `faiss.Kmeans`, from the same start, in one process.

The largest part clusters 10 million rows on two ranks, each limited to 2 GiB of memory.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Figures,
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
from benchmarks.rank_processes import Link, can_limit, can_make_networks, limited, run_ranks

GIB = 2**30
LINK_BYTES_PER_S = 1e9 / 8 * 0.93
"""What `tc tbf rate 1gbit` lets through: 0.92 to 0.94 Gbit/s of data, measured."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of all parts."""

    extract_images: int
    """Images of one rank, for extract. Ranks share out whole shards, of which a few images have
    few: of 64,000, two ranks write 15 and 16, so that one has 3 % more to do than the other."""
    train_images: int
    """Images of one rank, for train."""
    rows: int
    """Rows of one rank, for cluster."""
    k: int
    iterations_rows: int
    """Rows of the comparison with faiss."""
    strong_rows: int
    """Rows of one rank, and of two."""
    many_rows: int
    """Rows of the largest part."""


FULL = Sizes(100_000, 32_000, 200_000, 1000, 200_000, 1_000_000, 10_000_000)
QUICK = Sizes(1000, 1000, 8192, 100, 20_000, 16_384, 65_536)
WIDTH = 256
RANK_BYTES = 2 * GIB
STRONG_ITERATIONS = 8
"""Iterations of k-means where the same rows are clustered on one rank and on two."""


def main(argv: list[str] | None = None, *, quick_sizes: Sizes = QUICK) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("ranks", __doc__)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART")
    given = arguments.parse_args(argv)
    options = Options.of(given)
    sizes = options.size(FULL, quick_sizes)
    runs: Runs = {}
    targets: list[Target] = []
    notes = ["Each rank has one thread, and is bound to one core. Imports are not timed."]
    for name in given.only:
        # The data of one part are deleted before those of the next are written.
        with scratch(options) as folder:
            targets += PARTS[name](folder, sizes, options, runs, notes)
    settings = vars(sizes) | {"width": WIDTH, "parts": given.only}
    Result("ranks", targets, runs, settings=settings, notes=notes).report(options)


def _iteration(
    _: Path, sizes: Sizes, options: Options, runs: Runs, notes: list[str]
) -> list[Target]:
    """Compare an iteration of k-means with faiss's."""
    arguments = {"count": sizes.iterations_rows, "width": WIDTH, "k": sizes.k}
    sides = {
        "iteration, faiss": Side("benchmarks.ranks_sides:faiss_iterations", arguments),
        "iteration, ours": Side("benchmarks.ranks_sides:own_iterations", arguments),
    }
    runs |= alternate(sides, repeats=options.repeats, afresh=False)
    ours, theirs = spread(runs["iteration, ours"]), spread(runs["iteration, faiss"])
    bound = _full(1.1, options.quick)
    ratio = ours.median / theirs.median
    return [Target("an iteration of k-means, against faiss", ratio, bound, "x", at_most=True)]


def _extract(
    folder: Path, sizes: Sizes, options: Options, runs: Runs, notes: list[str]
) -> list[Target]:
    scaling = _scaling("extract", 0.9, folder, sizes, options, runs)
    link = _behind_link("extract", Bounds(0.9, None, 15), folder, sizes, options, runs, notes)
    return [scaling, *link, _launch(folder, runs)]


def _train(
    folder: Path, sizes: Sizes, options: Options, runs: Runs, notes: list[str]
) -> list[Target]:
    scaling = _scaling("train", 0.75, folder, sizes, options, runs)
    # Ranks that share no memory take longer for each sum than the link does.
    link = _behind_link("train", Bounds(None, 5, None), folder, sizes, options, runs, notes)
    return [scaling, *link]


def _cluster(
    folder: Path, sizes: Sizes, options: Options, runs: Runs, notes: list[str]
) -> list[Target]:
    scaling = _scaling("cluster", 0.9, folder, sizes, options, runs)
    link = _behind_link("cluster", Bounds(0.85, 5, 15), folder, sizes, options, runs, notes)
    return [scaling, *link]


def _strong(
    folder: Path, sizes: Sizes, options: Options, runs: Runs, notes: list[str]
) -> list[Target]:
    """Cluster the same rows on one rank and on two."""
    run = str(folder / "inputs")
    log(f"writing {sizes.strong_rows:,} x {WIDTH} features")
    Side(
        "benchmarks.ours:write_random_run",
        {"run": run, "count": sizes.strong_rows, "dim": WIDTH},
    ).run()
    arguments = {"run": run, "k": sizes.k, "iterations": STRONG_ITERATIONS}
    name = f"cluster {sizes.strong_rows:,} rows"
    each = {1: arguments, 2: arguments}
    one_s, two_s = _in_turns(name, "cluster_iterations", each, folder, options, runs)
    reached = one_s / two_s / 2
    bound = _full(0.85, options.quick)
    return [Target(f"strong scaling of cluster, {sizes.strong_rows:,} rows, R = 2", reached, bound)]


def _scaling(
    name: str, bound: float, folder: Path, sizes: Sizes, options: Options, runs: Runs
) -> Target:
    """Run a stage on one rank, and on twice the data on two ranks, in turns."""
    arguments: dict[int, Mapping[str, Any]] = {}
    for size in (1, 2):
        run = str(folder / f"inputs-{size}")
        arguments[size] = {"run": run, "k": sizes.k, "batch_size": 64 * size}
        _prepare(name, run, sizes, size)
    one_s, two_s = _in_turns(name, f"{name}_stage", arguments, folder, options, runs)
    return Target(f"weak scaling of {name}, R = 2", one_s / two_s, _full(bound, options.quick))


def _in_turns(
    name: str,
    function: str,
    arguments: Mapping[int, Mapping[str, Any]],
    folder: Path,
    options: Options,
    runs: Runs,
) -> tuple[float, float]:
    """Run a function of `ranks_sides` on one rank and on two; return the median seconds of both."""
    for turn in range(options.repeats):
        for size in (1, 2):
            figures = run_ranks(function, arguments[size], size=size, folder=folder)
            runs.setdefault(_side(name, size), []).append(figures)
            log(f"  turn {turn + 1} of {options.repeats}, {name}, R = {size}: {_s(figures)}")
    return spread(runs[_side(name, 1)]).median, spread(runs[_side(name, 2)]).median


def _prepare(name: str, run: str, sizes: Sizes, size: int) -> None:
    """Make the inputs of a stage, for `size` times the data of one rank."""
    if name == "cluster":
        log(f"writing {size * sizes.rows:,} x {WIDTH} features")
        random_rows = {"run": run, "count": size * sizes.rows, "dim": WIDTH}
        Side("benchmarks.ours:write_random_run", random_rows).run()
        return
    count = size * (sizes.extract_images if name == "extract" else sizes.train_images)
    log(f"packing {count:,} images")
    Side("benchmarks.ranks_sides:write_images", {"run": run, "count": count}).run()


@dataclass(frozen=True)
class Bounds:
    """What is expected of two ranks behind a slow link; None to report only."""

    scaling: float | None
    """Least weak scaling."""
    percent_of_bytes: float | None
    """Largest difference of the bytes that the kernel counts to those that are named; None where
    nothing but a few numbers is exchanged."""
    percent_of_time: float | None
    """Largest difference to the time without the link plus bytes over rate."""


def _behind_link(
    name: str,
    bounds: Bounds,
    folder: Path,
    sizes: Sizes,
    options: Options,
    runs: Runs,
    notes: list[str],
) -> list[Target]:
    """Run a stage on two ranks in networks of their own: counted bytes, and a slow link."""
    if not can_make_networks():
        notes.append(f"{name}: no networks could be made here, so that no bytes were counted.")
        return []
    arguments = {"run": str(folder / "inputs-2"), "k": sizes.k, "batch_size": 128}
    side = f"{name}, R = 2, 1 Gbit/s"
    runs[side] = []
    with Link("1gbit") as link:
        for _ in range(options.repeats):
            before = link.num_bytes()
            figures = run_ranks(f"{name}_stage", arguments, size=2, folder=folder, link=link)
            figures["counted_bytes"] = link.num_bytes() - before
            runs[side].append(figures)
            log(f"  {side}: {_s(figures)}")
    named = spread(runs[side], "moved_bytes").median
    usual_s = spread(runs[_side(name, 2)]).median
    predicted_s = usual_s + named / 2 / LINK_BYTES_PER_S
    measured_s = spread(runs[side]).median
    percent_off = 100 * abs(measured_s / predicted_s - 1)
    reached = spread(runs[_side(name, 1)]).median / measured_s
    quick = options.quick
    targets = [
        Target(f"weak scaling of {side}", reached, _full(bounds.scaling, quick)),
        Target(
            f"{name}: time at 1 Gbit/s, away from the prediction",
            percent_off,
            _full(bounds.percent_of_time, quick),
            "%",
            at_most=True,
        ),
    ]
    if bounds.percent_of_bytes is not None:
        percent_away = 100 * abs(spread(runs[side], "counted_bytes").median / named - 1)
        bound = _full(bounds.percent_of_bytes, quick)
        what = f"{name}: bytes exchanged, away from those named"
        targets.append(Target(what, percent_away, bound, "%", at_most=True))
    return targets


def _full(bound: float | None, quick: bool) -> float | None:
    """Return a bound, or None with quick sizes, at which fixed costs dominate."""
    return None if quick else bound


def _launch(folder: Path, runs: Runs) -> Target:
    """Measure how long torchrun takes to start a stage, and to end it, without its work."""
    side = Side("benchmarks.ranks_sides:launched_stage", {"run": str(folder / "inputs-1")})
    runs["launch by torchrun"] = alternate({"launch": side}, repeats=3)["launch"]
    seconds = spread(runs["launch by torchrun"]).median
    return Target("launch of a stage by torchrun", seconds, 8.0, "s", at_most=True)


def _many_rows(
    folder: Path, sizes: Sizes, options: Options, runs: Runs, notes: list[str]
) -> list[Target]:
    """Cluster many rows on two ranks, once, each under a limit of memory."""
    run = str(folder / "inputs")
    log(f"writing {sizes.many_rows:,} x {WIDTH} features")
    arguments: dict[str, Any] = {"run": run, "count": sizes.many_rows, "dim": WIDTH}
    Side("benchmarks.ours:write_random_run", arguments).run()
    if not can_limit():
        notes.append("No control groups could be made here: the largest part has no limit.")
    with limited(RANK_BYTES, num_groups=2) as groups:
        figures: Figures = run_ranks(
            "cluster_stage",
            {"run": run, "k": sizes.k, "batch_size": 0},
            size=2,
            folder=folder,
            groups=groups,
        )
    name = f"{sizes.many_rows:,} rows on two ranks"
    runs[name] = [figures]
    minutes = figures["seconds"] / 60
    peak_gib = figures["private_bytes"] / GIB
    return [
        Target(name, minutes, _full(10.0, options.quick), "min", at_most=True),
        Target(
            "private memory of a rank", peak_gib, _full(1.5, options.quick), "GiB", at_most=True
        ),
    ]


PARTS: dict[str, Callable[[Path, Sizes, Options, Runs, list[str]], list[Target]]] = {
    "iteration": _iteration,
    "extract": _extract,
    "train": _train,
    "cluster": _cluster,
    "strong": _strong,
    "rows": _many_rows,
}
"""The parts by the names that `--only` takes: what measures one in a folder of its own, adds to the
runs and notes, and returns its targets."""


def _side(name: str, size: int) -> str:
    return f"{name}, R = {size}"


def _s(figures: Figures) -> str:
    return f"{figures['seconds']:.2f} s"


if __name__ == "__main__":
    sys.exit(guarded(main))
