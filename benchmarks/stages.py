"""The parts of an epoch alone: extraction, training, and PCA with whitening.

Extraction and training run on ImageNet-like JPEGs as in `benchmarks.epoch`: each is a whole stage,
from artifact to artifact, against the part of the baseline that does the same; training includes
the checkpoint on both sides. PCA and whitening take 4,096 dimensions to 256, in memory.
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
    positive,
    scratch,
    spread,
)
from benchmarks.machine import num_cores
from benchmarks.workload import Workload, make_workload

FULL_IMAGES, QUICK_IMAGES = 2048, 320
FULL_ROWS, QUICK_ROWS = (
    {"count": 8192, "dim": 4096, "to": 256},
    {"count": 2304, "dim": 2048, "to": 256},
)
QUICK_S = {"extraction": 22, "training": 56, "reduction": 25}  # for the turns of each part
OVERRIDES = {"cluster": {"k": 100}}
BOUNDS = {"extraction": 5.0, "training": 3.2, "reduction": 10.0}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    made = parser("stages", __doc__)
    made.add_argument(
        "--images", type=positive, help=f"pictures; else {FULL_IMAGES}, quick {QUICK_IMAGES}"
    )
    made.add_argument(
        "--workers", type=positive, default=num_cores(), help="processes that load, of the baseline"
    )
    given = made.parse_args(argv)
    options = Options.of(given)
    count = given.images or (QUICK_IMAGES if options.quick else FULL_IMAGES)
    rows = QUICK_ROWS if options.quick else FULL_ROWS
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        runs: dict[str, list[Figures]] = {}
        for part, sides in _parts(workload, given.workers, rows).items():
            budget_s = QUICK_S[part] if options.quick else None
            found = alternate(sides, repeats=options.repeats, afresh=False, budget_s=budget_s)
            runs |= {f"{part}, {side}": figures for side, figures in found.items()}
    ran = ", ".join(f"{part} {len(runs[f'{part}, ours'])}" for part in BOUNDS)
    Result(
        "stages",
        [_target(part, runs, quick=options.quick) for part in BOUNDS],
        runs,
        settings=workload.settings(OVERRIDES, baseline_workers=given.workers, reduction=rows),
        notes=[f"Turns that ran, of {options.repeats}: {ran}."],
    ).tell(options)


def _parts(workload: Workload, workers: int, rows: dict[str, int]) -> dict[str, dict[str, Side]]:
    folder = str(workload.folder)
    prepared = workload.prepare("run", "raw", OVERRIDES)
    labels = str(prepared.folder / "labels" / "epoch=0000")
    return {
        "extraction": {
            "baseline": workload.baseline("extraction", OVERRIDES, workers=workers),
            "ours": prepared.side("extraction"),
        },
        "training": {
            "baseline": workload.baseline(
                "training", OVERRIDES, workers=workers, labels=labels, scratch=folder
            ),
            "ours": prepared.side("training"),
        },
        "reduction": {
            "baseline": Side("benchmarks.baseline_sides:reduction", rows),
            "ours": Side("benchmarks.ours:reduction", rows),
        },
    }


def _target(part: str, runs: dict[str, list[Figures]], *, quick: bool) -> Target:
    baseline, ours = (spread(runs[f"{part}, {side}"]).median for side in ("baseline", "ours"))
    # The bound of the reduction is one for 4,096 dimensions: fewer are another problem.
    bound = None if quick and part == "reduction" else BOUNDS[part]
    return Target(part, baseline / ours, bound, "x")


if __name__ == "__main__":
    sys.exit(guarded(main))
