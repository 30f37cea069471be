"""The training pace that is left when images are loaded at the same time.

It is the pace of the train stage, which reads packed images and crops, flips and resizes them in
threads, as a fraction of the network's pace on batches that are already in memory. On a CPU,
loading competes for the cores, so the pace cannot be better than loading alone permits; this share
is measured, too. On a GPU, loading has to keep up.
"""

import sys

from benchmarks.harness import (
    Result,
    Target,
    alternate,
    guarded,
    scratch,
    spread,
)
from benchmarks.machine import num_cores
from benchmarks.options import Options, add_images, parser
from benchmarks.workload import make_workload

FULL_IMAGES, QUICK_IMAGES = 2048, 320
BATCH_SIZE = 256
QUICK_S = 60
"""Time budget of the turns with --quick, seconds."""
BOUND = 0.95


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("loading", __doc__)
    add_images(arguments, full=FULL_IMAGES, quick=QUICK_IMAGES)
    given = arguments.parse_args(argv)
    options = Options.of(given)
    count = given.images or options.size(FULL_IMAGES, QUICK_IMAGES)
    encodings = options.size(["raw", "grey", "jpeg"], ["raw", "grey"])
    # The first and the last steps use batches that were loaded ahead, so there must be several
    # times as many steps.
    num_batches_ahead = 2 * num_cores() + 1
    steps = options.size(8, 3) * num_batches_ahead
    overrides = {"cluster": {"k": 100}, "train": {"reassign_every": steps * BATCH_SIZE / count}}
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        prepared = {name: workload.prepare(name, name, overrides) for name in encodings}
        sides = {"in memory": prepared["raw"].side("steps_in_memory")}
        for name, run in prepared.items():
            sides[name] = run.side("loaded_steps")
            sides[_alone(name)] = run.side("loading_alone")
        budget_s = options.size(None, QUICK_S)
        runs = alternate(sides, repeats=options.repeats, budget_s=budget_s)
    images_per_s = {side: spread(figures, "images_per_s").median for side, figures in runs.items()}
    in_memory = images_per_s["in memory"]
    targets: list[Target] = []
    for name in encodings:
        share = images_per_s[name] / in_memory
        targets.append(Target(f"pace beside loading, {name}", share, BOUND))
        # On one set of cores, the seconds per image of loading and of training add up.
        cpu_share = 1 / (1 + in_memory / images_per_s[_alone(name)])
        targets.append(Target(f"  bound of a CPU, {name}", cpu_share))
    Result(
        "loading",
        targets,
        runs,
        settings=workload.settings(overrides, steps=steps),
        notes=[f"{len(runs['in memory'])} of {options.repeats} turns ran, {steps} steps each."],
    ).report(options)


def _alone(encoding: str) -> str:
    return f"only loading, {encoding}"


if __name__ == "__main__":
    sys.exit(guarded(main))
