"""Whole runs over increasing numbers of images: the cost of another image must stay constant.

`deepcluster run` on digits, each enlarged to 64 px and moved by some pixels, with the small convnet
of the demo and k = 100: index, two epochs, picture. What the same command takes when everything is
cached, measured several times at the smallest and at the largest number of images, is the fixed
start; it is taken off before the rest is divided by the images and the epochs, and reported beside.
"""

import sys
from collections.abc import Mapping

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

COUNTS, QUICK_COUNTS = (2000, 4000, 8000, 16_000, 32_000), (1000, 2000)
EPOCHS = 2
SIDE_PX = 64
BOUND = 0.15
STARTS = 3
"""Number of measured starts. Their median is subtracted, since a second matters for few images."""

Arguments = Mapping[str, str | list[str]]
"""Arguments of the side that runs the command."""


def main(argv: list[str] | None = None, *, quick_counts: tuple[int, ...] = QUICK_COUNTS) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    options = Options.of(parser("scaling", __doc__, repeats=1).parse_args(argv))
    counts = options.size(COUNTS, quick_counts)
    ends = (counts[0], counts[-1])
    with scratch(options) as folder:
        log("making the images, and Prefect's database")
        commands: dict[int, Arguments] = {}
        for count in counts:
            path = f"{folder}/{count}.parquet"
            images = {"path": path, "count": count}
            Side("benchmarks.scaling_sides:write_moved_digits", images).run()
            commands[count] = {
                "run": str(folder / f"run-{count}"),
                "home": str(folder / "prefect"),
                "settings": _settings(path),
            }
        # A start with an existing database is measured, as on every day but the first.
        _make_database(commands[counts[0]], f"{folder}/first")
        runs = _in_turns(commands, options.repeats)
        # The runs are complete now, so that the same commands take only the fixed start.
        starts = {_start(count): _command(commands[count], cached=True) for count in ends}
        runs |= alternate(starts, repeats=max(STARTS, options.repeats))
    _result(counts, runs, options).report(options)


def _result(counts: tuple[int, ...], runs: Mapping[str, list[Figures]], options: Options) -> Result:
    # A single start time, the median over both ends, is subtracted from every run.
    fewest, most = counts[0], counts[-1]
    starts = [*runs[_start(fewest)], *runs[_start(most)]]
    fixed_s = spread(starts).median

    # What one more image costs in one epoch, at each number of images.
    image_ms: dict[int, float] = {}
    for count in counts:
        growing_s = spread(runs[_name(count)]).median - fixed_s
        image_ms[count] = 1e3 * growing_s / count / EPOCHS
    middle_ms = sorted(image_ms.values())[len(image_ms) // 2]
    fractions_away = [abs(ms / middle_ms - 1) for ms in image_ms.values()]
    percent_away = 100 * max(fractions_away)

    # Only the distance from the middle has a bound; the rest is recorded.
    targets = [Target("farthest from the middle", percent_away, 100 * BOUND, "%", at_most=True)]
    for count, ms in image_ms.items():
        targets.append(Target(f"an image and epoch, of {count:,}", ms, unit="ms"))
    for count in (fewest, most):
        start_s = spread(runs[_start(count)]).median
        targets.append(Target(f"fixed start, {count:,} images", start_s, unit="s"))
    return Result(
        "scaling",
        targets,
        runs,
        settings={"counts": counts, "epochs": EPOCHS, "side_px": SIDE_PX},
        notes=[f"{options.repeats} run(s) at each number of images."],
    )


def _settings(source: str) -> list[str]:
    return [
        f"epochs={EPOCHS}",
        f"dataset.source={source}",
        f"dataset.shorter_side={SIDE_PX}",
        f"network.image_size={SIDE_PX}",
        f"extract.resize={SIDE_PX}",
    ]


def _make_database(command: Arguments, run: str) -> None:
    """Have Prefect make its database, which takes seconds once on every machine."""
    small = ["dataset.subset=100", "epochs=1", "cluster.k=10", "train.batch_size=50"]
    settings = [*command["settings"], *small]
    _command({**command, "run": run, "settings": settings}).run()


def _in_turns(commands: Mapping[int, Arguments], repeats: int) -> Runs:
    """Run each number of images in turns, each time in a new folder.

    The last turn uses the folder in `commands`, in which everything is cached afterwards.
    """
    runs: Runs = {}
    for turn in range(repeats):
        is_last = turn == repeats - 1
        suffix = "" if is_last else f"-{turn}"
        sides: dict[str, Side] = {}
        for count, command in commands.items():
            run = f"{command['run']}{suffix}"
            sides[_name(count)] = _command({**command, "run": run})
        for name, found in alternate(sides, repeats=1).items():
            runs.setdefault(name, []).extend(found)
    return runs


def _name(count: int) -> str:
    return f"{count:,} images"


def _start(count: int) -> str:
    return f"start, {count:,} images"


def _command(arguments: Arguments, *, cached: bool = False) -> Side:
    return Side("benchmarks.command:timed_run", {**arguments, "cached": cached})


if __name__ == "__main__":
    sys.exit(guarded(main))
