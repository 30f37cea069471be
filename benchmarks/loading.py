"""The training pace that is left when images are loaded at the same time.

It is the pace of the train stage, which reads packed images and crops, flips and resizes them in
threads, as a fraction of the network's pace on batches that are already in memory. On a CPU,
loading competes for the cores, so the pace cannot be better than loading alone permits; this share
is measured, too. On a GPU, loading has to keep up.
"""

import sys

from benchmarks.harness import (
    Options,
    Result,
    Target,
    alternate,
    guarded,
    parser,
    positive,
    scratch,
    spread,
)
from benchmarks.machine import num_cores
from benchmarks.workload import make_workload

FULL_IMAGES, QUICK_IMAGES = 2048, 320
BATCH_SIZE = 256
QUICK_S = 60
BOUND = 0.95


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    made = parser("loading", __doc__)
    made.add_argument(
        "--images", type=positive, help=f"pictures; else {FULL_IMAGES}, quick {QUICK_IMAGES}"
    )
    given = made.parse_args(argv)
    options = Options.of(given)
    count = given.images or (QUICK_IMAGES if options.quick else FULL_IMAGES)
    encodings = ["raw"] if options.quick else ["raw", "jpeg"]
    # Several times what is loaded ahead, which the first and the last steps live on.
    steps = (3 if options.quick else 8) * (2 * num_cores() + 1)
    overrides = {"cluster": {"k": 100}, "train": {"reassign_every": steps * BATCH_SIZE / count}}
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        prepared = {name: workload.prepare(name, name, overrides) for name in encodings}
        sides = {"in memory": prepared["raw"].side("steps_in_memory")}
        for name, run in prepared.items():
            sides |= {name: run.side("loaded_steps"), _alone(name): run.side("loading_alone")}
        budget_s = QUICK_S if options.quick else None
        runs = alternate(sides, repeats=options.repeats, budget_s=budget_s)
    pace = {side: spread(figures, "images_per_s").median for side, figures in runs.items()}
    bare = pace["in memory"]
    Result(
        "loading",
        [
            target
            for name in encodings
            for target in (
                Target(f"pace beside loading, {name}", pace[name] / bare, BOUND),
                # Seconds an image add up on the same cores.
                Target(f"  bound of a CPU, {name}", 1 / (1 + bare / pace[_alone(name)])),
            )
        ],
        runs,
        settings=workload.settings(overrides, steps=steps),
        notes=[f"{len(runs['in memory'])} of {options.repeats} turns ran, {steps} steps each."],
    ).tell(options)


def _alone(encoding: str) -> str:
    return f"only loading, {encoding}"


if __name__ == "__main__":
    sys.exit(guarded(main))
