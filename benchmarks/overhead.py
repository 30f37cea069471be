"""The overhead of Prefect and the artifacts, in an epoch and in a run that is entirely cached.

The epoch: AlexNet at 224 px, whose checkpoint has 456 MB with the momentum, and features of
8,192 x 4,096 in float16, as a flow in one process with the server that Prefect gets from us. What
counts is everything except compute: the wall time of an epoch minus the time in forward passes,
PCA, k-means and training steps. Building networks and writing, hashing, flushing and reading files
is not compute. Images are digits, enlarged: that time is part of the forward passes.

The run: `deepcluster run configs/demo.yaml` again, ten epochs, from the shell's view.

The look: after each epoch the UI shows the latest epochs of the run. Measured is how much longer
that takes at 500 epochs than at 5, in a run with nearly empty files, as a share of what is added to
an epoch.

The commands that only look: CPU time of `deepcluster show` and `--help`, user and system.
"""

import sys
from pathlib import Path

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
from benchmarks.options import Options, add_images, parser

IMAGES, QUICK_IMAGES = 8192, 1024
EPOCHS, QUICK_EPOCHS = 5, 3
LOOKED_AT, QUICK_LOOKED_AT = (5, 500), (5, 50)
"""Numbers of epochs of the runs whose states are looked at."""
EPOCH_BOUND_S, CACHED_BOUND_S, SHOW_BOUND_S = 1.5, 5.0, 1.5
GROWTH_BOUND = 0.1
"""Bound on the growth, as a fraction of what is added to an epoch."""
FEW_STEPS = ["train.reassign_every=0.02", "train.lr=0.001"]
"""A short training suffices, since its time does not affect that of the cached run. With the usual
rate it would collapse."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("overhead", __doc__)
    add_images(arguments, full=IMAGES, quick=QUICK_IMAGES)
    given = arguments.parse_args(argv)
    options = Options.of(given)
    images = given.images or options.size(IMAGES, QUICK_IMAGES)
    epochs = options.size(EPOCHS, QUICK_EPOCHS)
    few, many = options.size(LOOKED_AT, QUICK_LOOKED_AT)
    with scratch(options) as folder:
        runs = _runs(folder, options.repeats, images=images, epochs=epochs, looked_at=(few, many))

    def median(side: str, figure: str) -> float:
        return spread(runs[side], figure).median

    few_s = median(f"look at {few}", "look_s")
    many_s = median(f"look at {many}", "look_s")
    growth_s = many_s - few_s
    added_s = median("epoch", "added_s")
    cached_s = median("cached run", "seconds")
    show_s = median("show", "cpu_s")
    Result(
        "overhead",
        [
            Target("added to an epoch", added_s, EPOCH_BOUND_S, "s", at_most=True),
            Target("everything cached", cached_s, CACHED_BOUND_S, "s", at_most=True),
            Target(
                f"epoch {many} against epoch {few}, share of what is added",
                growth_s / added_s,
                GROWTH_BOUND,
                at_most=True,
            ),
            Target("CPU of show", show_s, SHOW_BOUND_S, "s", at_most=True),
            Target("CPU of --help", median("help", "cpu_s"), unit="s"),
        ],
        runs,
        settings={"images": images, "epochs": epochs, "checkpoint": "AlexNet, 224 px"},
        notes=[
            f"Added to an epoch: medians of epochs 1 to {epochs - 1} of one run; in the first "
            f"nothing is read back.",
            f"A look, with storing its tables in Prefect's database: {few_s:.3f} s at {few}, "
            f"{many_s:.3f} s at {many}, wall time.",
        ],
    ).report(options)


def _runs(
    folder: Path, repeats: int, *, images: int, epochs: int, looked_at: tuple[int, int]
) -> Runs:
    """Measure everything; return the figures of all runs by side."""
    home = str(folder / "prefect")
    # The epochs: one flow, since every epoch but the first is a repeat.
    arguments = {"run": str(folder / "epochs"), "home": home, "images": images, "n": epochs}
    runs = {"epoch": [Side("benchmarks.overhead_sides:epochs", arguments).run()]}

    # The cached run: the first call makes the run, and only further calls are measured.
    arguments = {"run": str(folder / "cached"), "home": home, "settings": FEW_STEPS}
    Side("benchmarks.command:timed_run", arguments).run()
    cached = Side("benchmarks.command:timed_run", arguments | {"cached": True})
    runs |= alternate({"cached run": cached}, repeats=repeats)

    # The looks at a short run and at a long one.
    for n in looked_at:
        arguments = {"runs": str(folder / "looks"), "home": home, "n": n}
        runs[f"look at {n}"] = [Side("benchmarks.overhead_sides:looks", arguments).run()]

    # The commands that only look.
    commands = {"show": ["show", str(folder / "cached")], "help": ["--help"]}
    for name, command in commands.items():
        side = Side("benchmarks.command:cpu_time", {"arguments": command})
        runs |= alternate({name: side}, repeats=repeats)
    return runs


if __name__ == "__main__":
    sys.exit(guarded(main))
