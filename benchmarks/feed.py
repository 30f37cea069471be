"""How fast threads fill the slots from which a GPU copies batches, without a GPU.

Random batches of packed pixels, as training reads them, are copied from an images artifact into
main memory, as `deepcluster_core.device_feed` does it. Beside the pace counts the time for which an
image holds Python's lock, because the thread that starts the work of the GPU needs it, too: it is
measured with images of a few pixels, whose copies take no time. For comparison, threads make the
views of the same images, as they do for a CPU.
"""

import sys

from benchmarks.harness import Result, Side, Target, alternate, guarded, scratch, spread
from benchmarks.options import Options, add_images, parser

FULL_IMAGES, QUICK_IMAGES = 8192, 1024
FULL_BATCHES, QUICK_BATCHES = 200, 20
QUICK_S = 60
"""Time budget of the turns with --quick, seconds."""
PYTHON_US = 1.0
"""Bound of the microseconds of Python for an image."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("feed", __doc__)
    add_images(arguments, full=FULL_IMAGES, quick=QUICK_IMAGES)
    given = arguments.parse_args(argv)
    options = Options.of(given)
    count = given.images or options.size(FULL_IMAGES, QUICK_IMAGES)
    num_batches = options.size(FULL_BATCHES, QUICK_BATCHES)
    with scratch(options) as folder:
        sides: dict[str, Side] = {}
        for name, shape in SHAPES.items():
            images = str(folder / name)
            arguments_of_pack = {"folder": images, "count": count, "shape": shape}
            Side("benchmarks.feed_sides:pack", arguments_of_pack).run()
            for side in ("slots", "views") if name != TINY else ("slots",):
                sides[f"{name}, {side}"] = Side(
                    f"benchmarks.feed_sides:{side}", {"folder": images, "num_batches": num_batches}
                )
        runs = alternate(sides, repeats=options.repeats, budget_s=options.size(None, QUICK_S))
    python_us = spread(runs[f"{TINY}, slots"], "us_per_image").median
    targets = [Target("Python for an image", python_us, PYTHON_US, "µs", at_most=True)]
    for side, figures in runs.items():
        pace = spread(figures, "images_per_s").median
        targets.append(Target(f"{side}, one thread", pace, None, "images/s"))
    settings = {"images": count, "batches": num_batches, "shapes": SHAPES}
    Result("feed", targets, runs, settings=settings).report(options)


TINY = "tiny"
SHAPES = {"grey": (256, 341, 1), "colour": (256, 341, 3), TINY: (4, 4, 1)}
"""Height, width and channels of the packed images; the mean shape of ImageNet's at 256 pixels."""

if __name__ == "__main__":
    sys.exit(guarded(main))
