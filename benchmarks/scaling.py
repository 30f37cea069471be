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

COUNTS, QUICK_COUNTS = (2000, 4000, 8000, 16_000, 32_000), (1000, 2000)
EPOCHS = 2
SIDE_PX = 64
BOUND = 0.15
STARTS = 3
"""Number of measured starts. Their median is subtracted, since a second matters for few images."""

Given = Mapping[str, str | list[str]]
"""Arguments of the command."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    options = Options.of(parser("scaling", __doc__, repeats=1).parse_args(argv))
    counts = QUICK_COUNTS if options.quick else COUNTS
    ends = (counts[0], counts[-1])
    with scratch(options) as folder:
        commands: dict[int, Given] = {
            count: {
                "run": str(folder / f"run-{count}"),
                "home": str(folder / "prefect"),
                "settings": _settings(f"{folder}/{count}.parquet"),
            }
            for count in counts
        }
        say("making the images, and Prefect's database")
        for count in counts:
            given = {"path": f"{folder}/{count}.parquet", "count": count}
            Side("benchmarks.scaling_sides:write_moved_digits", given).run()
        _make_database(commands[counts[0]], f"{folder}/first")
        runs = _in_turns(commands, options.repeats)
        starts = {_start(count): _command(commands[count], cached=True) for count in ends}
        runs |= alternate(starts, repeats=max(STARTS, options.repeats))
    _result(counts, runs, options).tell(options)


def _result(counts: tuple[int, ...], runs: Mapping[str, list[Figures]], options: Options) -> Result:
    ends = (counts[0], counts[-1])
    start_s = [spread(runs[_start(count)]).median for count in ends]
    fixed_s = spread([figures for count in ends for figures in runs[_start(count)]]).median
    each_ms = [
        1e3 * (spread(runs[_name(count)]).median - fixed_s) / count / EPOCHS for count in counts
    ]
    middle_ms = sorted(each_ms)[len(each_ms) // 2]
    away = max(abs(ms / middle_ms - 1) for ms in each_ms)
    return Result(
        "scaling",
        [
            Target("farthest from the middle", 100 * away, 100 * BOUND, "%", at_most=True),
            *(
                Target(f"an image and epoch, of {count:,}", ms, unit="ms")
                for count, ms in zip(counts, each_ms, strict=True)
            ),
            *(
                Target(f"fixed start, {count:,} images", s, unit="s")
                for count, s in zip(ends, start_s, strict=True)
            ),
        ],
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


def _make_database(given: Given, run: str) -> None:
    """Have Prefect make its database, which takes seconds once on every machine."""
    few = ["dataset.subset=100", "epochs=1", "cluster.k=10", "train.batch_size=50"]
    _command({**given, "run": run, "settings": [*given["settings"], *few]}).run()


def _in_turns(commands: Mapping[int, Given], repeats: int) -> dict[str, list[Figures]]:
    """Run each number of images in turns, every time in a new folder but for the last turn."""
    runs: dict[str, list[Figures]] = {}
    for turn in range(repeats):
        end = "" if turn == repeats - 1 else f"-{turn}"
        sides = {
            _name(count): _command({**given, "run": f"{given['run']}{end}"})
            for count, given in commands.items()
        }
        for name, found in alternate(sides, repeats=1).items():
            runs.setdefault(name, []).extend(found)
    return runs


def _name(count: int) -> str:
    return f"{count:,} images"


def _start(count: int) -> str:
    return f"start, {count:,} images"


def _command(given: Given, *, cached: bool = False) -> Side:
    return Side("benchmarks.command:timed_run", {**given, "cached": cached})


if __name__ == "__main__":
    sys.exit(guarded(main))
