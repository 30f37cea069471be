"""The parts of a run of 100 million images that two cores can measure; `--only PART …` takes some.

tables: index and labels of 60 million generated images, 2.4 GB of paths, within 2 GiB of memory
    (a control group, if the machine allows one). About 4 minutes on two cores (an estimate).
order: the order of an epoch of 100 million images, made by one rank and mapped by two: memory that
    a rank holds, and at its peak. About 2 minutes.
cluster: 10 million rows of 256 on two ranks, k = 10,000, two iterations, each rank within 2 GiB.
    About 15 minutes, of which the rows take two. Twenty iterations are extrapolated.
pca: PCA of all and of a tenth of 20,000 features of 4,096, and the bytes of reduced features.
    About 1 minute.

What was measured is in the table of sides; a target whose name ends in "extrapolated" is the
measured figure times the factor that its note states. `hundred_million_costs` makes the page about
runs of that size.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    BenchmarkError,
    Figures,
    Result,
    Runs,
    Side,
    Target,
    guarded,
    log,
    scratch,
)
from benchmarks.options import Options, parser
from benchmarks.rank_processes import can_limit, limited, run_ranks

GIB = 1 << 30
LIMIT_BYTES = 2 * GIB
HELD_GIB = 0.6
"""Most private memory that a rank may hold for the order and the labels of 100 million images."""
MANY = 100_000_000
WIDTH = 256


@dataclass(frozen=True)
class Sizes:
    """The sizes of all parts."""

    table_rows: int
    order_rows: int
    cluster_rows: int
    k: int
    iterations: int
    wanted_iterations: int
    pca_rows: int
    pca_dim: int
    pca_sample: int


FULL = Sizes(60_000_000, MANY, 10_000_000, 10_000, 2, 20, 20_000, 4096, 2000)
QUICK = Sizes(300_000, 1_000_000, 32_768, 1000, 2, 20, 4000, 1024, 1500)

Part = Callable[[Sizes, Path, Runs, list[str]], list[Target]]


def main(argv: list[str] | None = None, *, quick_sizes: Sizes = QUICK) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("hundred_million", __doc__, repeats=1)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART")
    given = arguments.parse_args(argv)
    options = Options.of(given)
    sizes = options.size(FULL, quick_sizes)
    if options.repeats > 1:
        raise BenchmarkError("--repeats: each part runs once.\n  Fix: leave it out.")
    runs: Runs = {}
    notes: list[str] = []
    targets: list[Target] = []
    for name in given.only:
        log(f"part {name}")
        with scratch(options) as folder:
            targets += PARTS[name](sizes, folder, runs, notes)
    settings: dict[str, Any] = asdict(sizes) | {"parts": given.only, "width": WIDTH}
    Result("hundred_million", targets, runs, settings=settings, notes=notes).report(options)


def _tables(sizes: Sizes, folder: Path, runs: Runs, notes: list[str]) -> list[Target]:
    if not can_limit():
        notes.append("tables: no control group could be made, so that memory had no limit.")
    with limited(LIMIT_BYTES, num_groups=1) as groups:
        arguments = {
            "folder": str(folder / "tables"),
            "num_images": sizes.table_rows,
            "group": str(groups[0]) if groups else None,
        }
        figures = Side("benchmarks.hundred_million_sides:tables", arguments).run()
    runs[f"tables of {sizes.table_rows:,} images"] = [figures]
    each = {name: figures[f"{name}_bytes"] / sizes.table_rows for name in _TABLES}
    written_s = sum(figures[f"{name}_written_s"] for name in _TABLES)
    peak_gib = figures["peak_bytes"] / GIB
    return [
        Target("tables, peak memory", peak_gib, LIMIT_BYTES / GIB, "GiB", at_most=True),
        Target("tables, all three written", written_s, unit="s"),
        *(Target(f"{_TABLES[name]}, an image", size, unit="bytes") for name, size in each.items()),
    ]


_TABLES = {"index": "index", "labels": "labels with paths", "bare_labels": "labels without paths"}


def _order(sizes: Sizes, folder: Path, runs: Runs, notes: list[str]) -> list[Target]:
    arguments = {"scratch": str(folder), "num_images": sizes.order_rows, "k": sizes.k}
    figures = run_ranks("epoch_order", arguments, size=2, folder=folder)
    runs[f"order of {sizes.order_rows:,} images"] = [figures]
    notes.append("order: a rank holds little, because the arrays are mapped; the first one makes.")
    held_gib = figures["held_bytes"] / GIB
    return [
        Target("order, held by a rank", held_gib, HELD_GIB, "GiB", at_most=True),
        Target("order, peak of the first rank", figures["private_bytes"] / GIB, unit="GiB"),
        Target("order, made and mapped", figures["seconds"], unit="s"),
    ]


def _cluster(sizes: Sizes, folder: Path, runs: Runs, notes: list[str]) -> list[Target]:
    run = str(folder / "inputs")
    log(f"writing {sizes.cluster_rows:,} x {WIDTH} features")
    random_rows: dict[str, Any] = {"run": run, "count": sizes.cluster_rows, "dim": WIDTH}
    Side("benchmarks.ours:write_random_run", random_rows).run()
    if not can_limit():
        notes.append("cluster: no control groups could be made, so that memory had no limit.")
    arguments = {"run": run, "k": sizes.k, "iterations": sizes.iterations}
    with limited(LIMIT_BYTES, num_groups=2) as groups:
        figures = run_ranks("cluster_iterations", arguments, size=2, folder=folder, groups=groups)
    runs[f"{sizes.cluster_rows:,} rows, k = {sizes.k:,}, {sizes.iterations} iterations"] = [figures]
    return _extrapolated(sizes, figures, notes)


def _extrapolated(sizes: Sizes, figures: Figures, notes: list[str]) -> list[Target]:
    further = sizes.wanted_iterations - sizes.iterations
    whole_s = figures["seconds"] + further * figures["iteration_s"]
    factor = MANY / sizes.cluster_rows
    notes.append(
        f"cluster: {sizes.wanted_iterations} iterations are the measured stage and {further} times "
        f"the mean of its {sizes.iterations} iterations; {MANY:,} rows are {factor:,.0f} times as "
        f"long."
    )
    each_ns = 1e9 * figures["iteration_s"] / sizes.cluster_rows / sizes.k
    is_full = sizes.cluster_rows == FULL.cluster_rows
    bound = 70.0 if is_full else None
    return [
        Target("cluster, an iteration, a row and centroid", each_ns, unit="ns"),
        Target("cluster, private memory of a rank", figures["private_bytes"] / GIB, unit="GiB"),
        Target(
            f"cluster, {sizes.wanted_iterations} iterations, extrapolated",
            whole_s / 60,
            bound,
            "min",
            at_most=True,
        ),
        Target(f"cluster, {MANY:,} rows, extrapolated", factor * whole_s / 3600, unit="h"),
    ]


def _pca(sizes: Sizes, folder: Path, runs: Runs, notes: list[str]) -> list[Target]:
    arguments = {
        "folder": str(folder / "features"),
        "num_images": sizes.pca_rows,
        "dim": sizes.pca_dim,
        "reduced": WIDTH,
        "sample": sizes.pca_sample,
    }
    figures = Side("benchmarks.hundred_million_sides:reduced_features", arguments).run()
    runs[f"PCA of {sizes.pca_rows:,} x {sizes.pca_dim:,}"] = [figures]
    notes.append("pca: the times contain the eigenvalues, which do not depend on the images.")
    whole, reduced = figures["whole_bytes"], figures["reduced_bytes"]
    expected = sizes.pca_dim / WIDTH
    return [
        # Descriptions, checksums and the last chunk's unused rows take a few percent.
        Target("pca, bytes saved", whole / reduced, 0.9 * expected, "x"),
        Target("pca, reduced features, an image", reduced / sizes.pca_rows, unit="bytes"),
        Target("pca, whole features, an image", whole / sizes.pca_rows, unit="bytes"),
        Target(
            "pca, of a sample / of all, seconds",
            figures["pca_of_sample_s"] / figures["pca_of_all_s"],
        ),
    ]


PARTS: dict[str, Part] = {"tables": _tables, "order": _order, "cluster": _cluster, "pca": _pca}

if __name__ == "__main__":
    sys.exit(guarded(main))
