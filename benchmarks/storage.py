"""The cost of artifact formats: reading packed images at random, writing and reading features.

Each format is compared with equal bytes in a plain file: a NumPy memory map of the pixels, or a
file of the rows. Reads come from the page cache, where a format's own cost shows most; from a slow
disk, every reader would wait for the disk. Writes end when the data are on the disk.
"""

import sys
from dataclasses import dataclass

from benchmarks.harness import (
    Result,
    Runs,
    Side,
    Target,
    alternate,
    guarded,
    scratch,
    spread,
)
from benchmarks.options import Options, parser


@dataclass(frozen=True)
class Sizes:
    """How much is written and read."""

    images: int
    rows: int
    dim: int
    """Width of a row of features."""


FULL = Sizes(images=4000, rows=65_536, dim=4096)
QUICK = Sizes(images=1000, rows=16_384, dim=4096)
SIDES_PX = {"256 px, colour": (256, 3), "32 px, grey": (32, 1)}
"""Side and number of channels of the images."""
BOUND = 0.8
KINDS = ("written", "read")


def main(argv: list[str] | None = None, *, quick_sizes: Sizes = QUICK) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    options = Options.of(parser("storage", __doc__, repeats=5).parse_args(argv))
    sizes = options.size(FULL, quick_sizes)
    runs: Runs = {}
    targets: list[Target] = []
    # Images, read in a random order.
    for name, (side, channels) in SIDES_PX.items():
        with scratch(options) as folder:
            arguments = {
                "folder": str(folder),
                "count": sizes.images,
                "side": side,
                "channels": channels,
            }
            _side("write_images", arguments).run()  # not measured
            sides = {
                f"memory map, {name}": _side("memory_map", arguments),
                f"ours, {name}": _side("packed", arguments),
            }
            found = alternate(sides, repeats=options.repeats)
        runs |= found
        targets.append(_share(f"images read at random, {name}", found))
    # Features, as the extract stage writes them and the cluster stage reads them.
    for kind in KINDS:
        with scratch(options) as folder:
            arguments = {"folder": str(folder), "rows": sizes.rows, "dim": sizes.dim}
            _side("write_rows", arguments).run()  # what is read; not measured
            sides = {
                f"raw file, {kind}": _side(f"raw_{kind}", arguments),
                f"features.zarr, {kind}": _side(f"zarr_{kind}", arguments),
            }
            found = alternate(sides, repeats=options.repeats)
        runs |= found
        targets.append(_share(f"features {kind}", found))
    Result(
        "storage",
        targets,
        runs,
        settings={
            "images": sizes.images,
            "sides_px": SIDES_PX,
            "rows": sizes.rows,
            "dim": sizes.dim,
        },
        notes=["Shares: the plain file's median time over ours."],
    ).report(options)


def _side(function: str, arguments: dict[str, str | int]) -> Side:
    return Side(f"benchmarks.storage_sides:{function}", arguments)


def _share(title: str, runs: Runs) -> Target:
    """Compare two sides; the plain file comes first."""
    plain_s, ours_s = [spread(figures).median for figures in runs.values()]
    return Target(f"{title}, share of a plain file", plain_s / ours_s, BOUND)


if __name__ == "__main__":
    sys.exit(guarded(main))
