"""One whole epoch, ours against the baseline: extract, cluster, train.

It uses AlexNet with Sobel on ImageNet-like JPEGs, and the recipe configs/imagenet-alexnet.yaml with
k = 100. Our side reads images that are packed in advance, which the baseline does not need. These
seconds are reported separately, because a run spends them only once. Each side is a separate
process, in which epochs follow each other as in a training.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import (
    Result,
    Target,
    alternate,
    guarded,
    scratch,
    spread,
)
from benchmarks.machine import instruction_limit
from benchmarks.options import Options, add_images, add_workers, parser
from benchmarks.workload import make_workload

FULL_IMAGES, QUICK_IMAGES = 2048, 384
QUICK_S = 114
"""Time budget of the turns with --quick, seconds, so that it ends within two minutes."""
BOUND, AVX2_BOUND = 4.0, 2.1
"""Speed-ups to reach, the second one on processors without bfloat16."""
OVERRIDES = {"cluster": {"k": 100}}


def main(argv: list[str] | None = None, *, overrides: Mapping[str, Any] = OVERRIDES) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    start = time.perf_counter()
    arguments = parser("epoch", __doc__)
    add_images(arguments, full=FULL_IMAGES, quick=QUICK_IMAGES)
    add_workers(arguments)
    given = arguments.parse_args(argv)
    options = Options.of(given)
    count = given.images or options.size(FULL_IMAGES, QUICK_IMAGES)
    encodings = options.size(["raw", "grey", "jpeg"], ["raw", "grey"])
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        baseline = workload.baseline("epoch", overrides, workers=given.workers, scratch=str(folder))
        sides = {"baseline": baseline}
        # Packing is timed, but is not part of an epoch: a run does it only once.
        packing_s: dict[str, float] = {}
        for encoding in encodings:
            prepared = workload.prepare(encoding, encoding, overrides)
            packing_s[encoding] = prepared.packing["index_s"]
            sides[f"ours, {encoding}"] = prepared.side("epoch")
        # What preparing took counts towards the two minutes of a quick run.
        left_s = QUICK_S - (time.perf_counter() - start)
        budget_s = options.size(None, left_s)
        runs = alternate(sides, repeats=options.repeats, afresh=False, budget_s=budget_s)
    seconds = {side: spread(figures).median for side, figures in runs.items()}
    baseline_s = seconds.pop("baseline")
    num_turns = len(runs["baseline"])
    bound = AVX2_BOUND if instruction_limit() == "AVX2" else BOUND
    targets: list[Target] = []
    for side, side_s in seconds.items():
        targets.append(Target(f"epoch, {side}", baseline_s / side_s, bound, "x"))
    Result(
        "epoch",
        targets,
        runs,
        settings=workload.settings(overrides, baseline_workers=given.workers),
        headline={
            "speedup": baseline_s / seconds["ours, raw"],
            "baseline_s": baseline_s,
            "ours_s": seconds["ours, raw"],
        },
        notes=[
            f"{num_turns} of {options.repeats} turns ran; {count:,} pictures.",
            *(
                f"Packing as {encoding}, once before all epochs: {index_s:.1f} s."
                for encoding, index_s in packing_s.items()
            ),
        ],
    ).report(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
