"""The overhead of Prefect and the artifacts, in an epoch and in a run that is entirely cached.

The epoch: AlexNet at 224 px, whose checkpoint has 456 MB with the momentum, and features of
8,192 x 4,096 in float16, as a flow in one process with the server that Prefect gets from us. What
counts is all but the compute: the wall time of an epoch less the time inside of the forward
passes, PCA, k-means and training steps. Networks are built, files written, hashed, flushed and
read outside of those. Images are digits, enlarged: that time is part of the forward passes.

The run: `deepcluster run configs/demo.yaml` again, ten epochs, from the shell's view.

The look: after each epoch the UI shows the state of the whole run. What that takes at 500 epochs
more than at 5, in a run whose files hold nothing, as a share of what is added to an epoch.

The commands that only look: CPU time of `deepcluster show` and `--help`, user and system.
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
LOOKED_AT, QUICK_LOOKED_AT = (5, 500), (5, 50)
"""Epochs."""
EPOCH_BOUND_S, CACHED_BOUND_S, SHOW_BOUND_S = 1.5, 15.0, 1.5
GROWTH_BOUND = 0.1
"""Bound on the growth, as a fraction of what is added to an epoch."""
FEW_STEPS = "train.reassign_every=0.02"
"""A short training suffices, since its time does not affect that of the cached run."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
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
        few, many = QUICK_LOOKED_AT if options.quick else LOOKED_AT
        for n in (few, many):
            given = {"runs": str(folder / "looks"), "home": home, "n": n}
            runs[f"look at {n}"] = [Side("benchmarks.overhead_sides:looks", given).run()]
        for name, arguments in {
            "show": ["show", str(folder / "cached")],
            "help": ["--help"],
        }.items():
            side = Side("benchmarks.command:cpu_time", {"arguments": arguments})
            runs |= alternate({name: side}, repeats=options.repeats)
    passes_s = [spread(runs[f"look at {n}"], "pass_s").median for n in (few, many)]
    stored_s = [spread(runs[f"look at {n}"], "look_s").median for n in (few, many)]
    added_s = spread(runs["epoch"], "added_s").median
    cached_s = spread(runs["cached run"]).median
    Result(
        "overhead",
        [
            Target("added to an epoch", added_s, EPOCH_BOUND_S, "s", at_most=True),
            Target("everything cached", cached_s, CACHED_BOUND_S, "s", at_most=True),
            Target(
                f"epoch {many} against epoch {few}, share of what is added",
                (passes_s[1] - passes_s[0]) / added_s,
                GROWTH_BOUND,
                at_most=True,
            ),
            Target(
                "CPU of show", spread(runs["show"], "cpu_s").median, SHOW_BOUND_S, "s", at_most=True
            ),
            Target("CPU of --help", spread(runs["help"], "cpu_s").median, unit="s"),
        ],
        runs,
        settings={"images": images, "epochs": epochs, "checkpoint": "AlexNet, 224 px"},
        notes=[
            f"Added to an epoch: medians of epochs 1 to {epochs - 1} of one run; in the first "
            f"nothing is read back.",
            f"Storing the tables of all epochs in Prefect's database, which it replaces as a "
            f"whole, is no part of the look; with it: {stored_s[0]:.2f} s at {few}, "
            f"{stored_s[1]:.2f} s at {many}, wall time.",
        ],
    ).tell(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
