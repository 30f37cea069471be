"""What Prefect and the artifacts add: to an epoch, and to a run of which everything is there.

The epoch: AlexNet at 224 px, whose checkpoint has 456 MB with the momentum, and features of
8,192 x 4,096 in float16, as a flow in one process with the server that Prefect gets from us. What
counts is all but the compute: the wall time of an epoch less the time inside of the forward
passes, PCA, k-means and training steps. Networks are built, files written, hashed, flushed and
read outside of those. Images are digits, enlarged: that time is part of the forward passes.

The run: `deepcluster run configs/demo.yaml` again, ten epochs, from the shell's view.
"""

import sys

from benchmarks.harness import (
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

IMAGES, QUICK_IMAGES = 8192, 1024
EPOCHS, QUICK_EPOCHS = 5, 3
EPOCH_BOUND_S, CACHED_BOUND_S = 1.5, 15.0
FEW_STEPS = "train.reassign_every=0.02"
"""What training took does not change what the cached run takes."""


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = Options.of(parser("overhead", __doc__).parse_args(argv))
    images = QUICK_IMAGES if options.quick else IMAGES
    epochs = QUICK_EPOCHS if options.quick else EPOCHS
    with scratch(options) as folder:
        home = str(folder / "prefect")
        given = {"run": str(folder / "epochs"), "home": home, "images": images, "n": epochs}
        runs = {"epoch": [Side("benchmarks.overhead_sides:epochs", given).run()]}
        given = {"run": str(folder / "cached"), "home": home, "settings": [FEW_STEPS]}
        Side("benchmarks.command:timed_run", given).run()
        cached = Side("benchmarks.command:timed_run", given | {"cached": True})
        runs |= alternate({"cached run": cached}, repeats=options.repeats)
    added_s = spread(runs["epoch"], "added_s").median
    cached_s = spread(runs["cached run"]).median
    Result(
        "overhead",
        [
            Target("added to an epoch", added_s, EPOCH_BOUND_S, "s", at_most=True),
            Target("everything cached", cached_s, CACHED_BOUND_S, "s", at_most=True),
        ],
        runs,
        settings={"images": images, "epochs": epochs, "checkpoint": "AlexNet, 224 px"},
        notes=[
            f"Added to an epoch: medians of epochs 1 to {epochs - 1} of one run; in the first "
            f"nothing is read back.",
        ],
    ).tell(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
