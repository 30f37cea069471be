"""The cost of artifact formats: reading packed images at random, writing and reading features.

Each format is compared with equal bytes in a plain file: a NumPy memory map of the pixels, or a
file of the rows. Reads come from the page cache, where a format's own cost shows most; from a slow
disk, every reader would wait for the disk. Writes end when the data are on the disk.
"""

import sys

from benchmarks.harness import (
    Figures,
    Options,
    Result,
    Side,
    Target,
    alternate,
    guarded,
    parser,
    scratch,
    spread,
)

IMAGES, QUICK_IMAGES = 4000, 1000
SIDES_PX = {"256 px, colour": (256, 3), "32 px, grey": (32, 1)}
ROWS, QUICK_ROWS, DIM = 65_536, 16_384, 4096
BOUND = 0.8
KINDS = ("written", "read")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    options = Options.of(parser("storage", __doc__, repeats=5).parse_args(argv))
    images = QUICK_IMAGES if options.quick else IMAGES
    rows = QUICK_ROWS if options.quick else ROWS
    runs: dict[str, list[Figures]] = {}
    targets: list[Target] = []
    for name, (side, channels) in SIDES_PX.items():
        with scratch(options) as folder:
            given = {"folder": str(folder), "count": images, "side": side, "channels": channels}
            _side("write_images", given).run()
            sides = {
                f"memory map, {name}": _side("memory_map", given),
                f"ours, {name}": _side("packed", given),
            }
            found = alternate(sides, repeats=options.repeats)
        runs |= found
        targets.append(_share(f"images read at random, {name}", found))
    for kind in KINDS:
        with scratch(options) as folder:
            given = {"folder": str(folder), "rows": rows, "dim": DIM}
            _side("write_rows", given).run()
            sides = {
                f"raw file, {kind}": _side(f"raw_{kind}", given),
                f"features.zarr, {kind}": _side(f"zarr_{kind}", given),
            }
            found = alternate(sides, repeats=options.repeats)
        runs |= found
        targets.append(_share(f"features {kind}", found))
    Result(
        "storage",
        targets,
        runs,
        settings={"images": images, "sides_px": SIDES_PX, "rows": rows, "dim": DIM},
        notes=["Shares: the plain file's median time over ours."],
    ).tell(options)


def _side(function: str, arguments: dict[str, str | int]) -> Side:
    return Side(f"benchmarks.storage_sides:{function}", arguments)


def _share(what: str, found: dict[str, list[Figures]]) -> Target:
    plain, ours = (spread(figures).median for figures in found.values())
    return Target(f"{what}, share of a plain file", plain / ours, BOUND)


if __name__ == "__main__":
    sys.exit(guarded(main))
