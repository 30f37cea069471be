"""The parts of an epoch alone: extraction, training, and PCA with whitening.

Extraction and training run on ImageNet-like JPEGs as in `benchmarks.epoch`: each is a whole stage,
from artifact to artifact, against the part of the baseline that does the same; training includes
the checkpoint on both sides. PCA and whitening take 4,096 dimensions to 256, in memory.
"""

import sys

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
from benchmarks.options import Options, add_images, add_workers, parser
from benchmarks.workload import Workload, make_workload

FULL_IMAGES, QUICK_IMAGES = 2048, 320
FULL_ROWS, QUICK_ROWS = (
    {"count": 8192, "dim": 4096, "to": 256},
    {"count": 2304, "dim": 2048, "to": 256},
)
QUICK_S = {"extraction": 22, "training": 56, "reduction": 25}
"""Time budgets for the turns of each part with --quick, seconds."""
OVERRIDES = {"cluster": {"k": 100}}
Parts = dict[str, dict[str, Side]]
"""The sides of each part."""

BOUNDS = {"extraction": 5.0, "training": 3.2, "reduction": 10.0}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("stages", __doc__)
    add_images(arguments, full=FULL_IMAGES, quick=QUICK_IMAGES)
    add_workers(arguments)
    given = arguments.parse_args(argv)
    options = Options.of(given)
    count = given.images or options.size(FULL_IMAGES, QUICK_IMAGES)
    rows = options.size(FULL_ROWS, QUICK_ROWS)
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        # Each part has its own turns, so that a part that is slow leaves time for the others.
        runs: Runs = {}
        for part, sides in _parts(workload, given.workers, rows).items():
            budget_s = options.size(None, QUICK_S[part])
            found = alternate(sides, repeats=options.repeats, afresh=False, budget_s=budget_s)
            for side, figures in found.items():
                runs[f"{part}, {side}"] = figures
    turns: list[str] = []
    for part in BOUNDS:
        num_turns = len(runs[f"{part}, ours"])
        turns.append(f"{part} {num_turns}")
    Result(
        "stages",
        [_target(part, runs, quick=options.quick) for part in BOUNDS],
        runs,
        settings=workload.settings(OVERRIDES, baseline_workers=given.workers, reduction=rows),
        notes=[f"Turns that ran, of {options.repeats}: {', '.join(turns)}."],
    ).report(options)


def _parts(workload: Workload, workers: int, rows: dict[str, int]) -> Parts:
    """Return both sides of each part."""
    folder = str(workload.folder)
    prepared = workload.prepare("run", "raw", OVERRIDES)
    # Both sides train on the labels that our pipeline has made.
    labels = str(prepared.folder / "labels" / "epoch=0000")
    training = workload.baseline(
        "training", OVERRIDES, workers=workers, labels=labels, scratch=folder
    )
    return {
        "extraction": {
            "baseline": workload.baseline("extraction", OVERRIDES, workers=workers),
            "ours": prepared.side("extraction"),
        },
        "training": {
            "baseline": training,
            "ours": prepared.side("training"),
        },
        "reduction": {
            "baseline": Side("benchmarks.baseline_sides:reduction", rows),
            "ours": Side("benchmarks.ours:reduction", rows),
        },
    }


def _target(part: str, runs: Runs, *, quick: bool) -> Target:
    baseline_s = spread(runs[f"{part}, baseline"]).median
    ours_s = spread(runs[f"{part}, ours"]).median
    bound = BOUNDS[part]
    if quick and part == "reduction":
        bound = None  # the bound is for 4,096 dimensions; fewer are a different problem
    return Target(part, baseline_s / ours_s, bound, "x")


if __name__ == "__main__":
    sys.exit(guarded(main))
