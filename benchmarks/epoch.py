"""One whole epoch, ours against the baseline: extract, cluster, train.

It uses AlexNet with Sobel on ImageNet-like JPEGs, and the recipe configs/imagenet-alexnet.yaml with
k = 100. Our side reads images that are packed in advance, which the baseline does not need. These
seconds are reported separately, because a run spends them only once. Each side is a separate
process, in which epochs follow each other as in a training.
"""

import sys
import time

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

FULL_IMAGES, QUICK_IMAGES = 2048, 384
QUICK_S = 114
"""Time budget of the turns with --quick, seconds, so that it ends within two minutes."""
BOUND = 4.0
OVERRIDES = {"cluster": {"k": 100}}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    start = time.perf_counter()
    made = parser("epoch", __doc__)
    made.add_argument(
        "--images", type=positive, help=f"pictures; else {FULL_IMAGES}, quick {QUICK_IMAGES}"
    )
    made.add_argument(
        "--workers", type=positive, default=num_cores(), help="processes that load, of the baseline"
    )
    given = made.parse_args(argv)
    options = Options.of(given)
    count = given.images or (QUICK_IMAGES if options.quick else FULL_IMAGES)
    encodings = ["raw"] if options.quick else ["raw", "jpeg"]
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        prepared = {
            encoding: workload.prepare(encoding, encoding, OVERRIDES) for encoding in encodings
        }
        sides = {
            "baseline": workload.baseline(
                "epoch", OVERRIDES, workers=given.workers, scratch=str(folder)
            ),
            **{f"ours, {encoding}": run.side("epoch") for encoding, run in prepared.items()},
        }
        left_s = QUICK_S - (time.perf_counter() - start) if options.quick else None
        runs = alternate(sides, repeats=options.repeats, afresh=False, budget_s=left_s)
    seconds = {side: spread(figures).median for side, figures in runs.items()}
    baseline_s = seconds.pop("baseline")
    ran = len(runs["baseline"])
    Result(
        "epoch",
        [Target(f"epoch, {side}", baseline_s / s, BOUND, "x") for side, s in seconds.items()],
        runs,
        settings=workload.settings(OVERRIDES, baseline_workers=given.workers),
        headline={
            "speedup": baseline_s / seconds["ours, raw"],
            "baseline_s": baseline_s,
            "ours_s": seconds["ours, raw"],
        },
        notes=[
            f"{ran} of {options.repeats} turns ran; {count:,} pictures.",
            *(
                f"Packing as {encoding}, once before all epochs: {run.packing['index_s']:.1f} s."
                for encoding, run in prepared.items()
            ),
        ],
    ).tell(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
