"""An epoch of ImageNet's shape on one GPU: AlexNet with Sobel and VGG-16, k = 10,000.

Extraction and training read packed ImageNet-like images of 256 px; their paces are those between
the first tenth of the batches and the last, because a stage's fixed seconds (reported beside) are
nothing over the 1.28 M images of ImageNet. The cluster stage runs on as many random features as
ImageNet has images, from disk: PCA of 4,096 dimensions to 256, whitening, k-means. Needs CUDA,
about 30 GB of disk, and as much memory as the packed images take, 14 GB for 65,536 of them.
"""

import sys

from benchmarks.harness import (
    BenchmarkError,
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
from benchmarks.workload import make_workload

FULL_IMAGES, QUICK_IMAGES = 65_536, 16_384
FULL_ROWS, QUICK_ROWS = 1_281_167, 131_072
K = 10_000
NETWORKS = {
    # Four passes of training over the images, so that it lasts seconds.
    "alexnet": {
        "network": {"name": "alexnet"},
        "cluster": {"k": K},
        "train": {"reassign_every": 4},
    },
    "vgg16": {"network": {"name": "vgg16"}, "cluster": {"k": K}},
}
EXTRACTION, TRAINING, VGG_TRAINING, CLUSTER_S = 40_000, 20_000, 2500, 12


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    made = parser("gpu", __doc__)
    made.add_argument(
        "--images", type=positive, help=f"pictures; else {FULL_IMAGES}, quick {QUICK_IMAGES}"
    )
    made.add_argument(
        "--rows", type=positive, help=f"to cluster; else {FULL_ROWS}, quick {QUICK_ROWS}"
    )
    given = made.parse_args(argv)
    options = Options.of(given)
    count = given.images or (QUICK_IMAGES if options.quick else FULL_IMAGES)
    rows = given.rows or (QUICK_ROWS if options.quick else FULL_ROWS)
    if Side("benchmarks.ours:devices").run()["devices"] == 0:
        raise BenchmarkError(
            "this machine has no CUDA device, which the gpu benchmark is about.\n"
            "  Fix: run it where torch.cuda.is_available(); the other benchmarks need none."
        )
    runs: dict[str, list[Figures]] = {}
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        for name, overrides in NETWORKS.items():
            run = workload.prepare(name, "raw", overrides)
            runs |= alternate({name: run.side("epoch")}, repeats=options.repeats)
        random = str(folder / "random")
        given = {"run": random, "count": rows, "dim": 4096}
        Side("benchmarks.ours:write_random_run", given).run()
        clustering = Side("benchmarks.ours:clustering", {"run": random, "k": K})
        runs |= alternate({"cluster": clustering}, repeats=options.repeats)
    settings = workload.settings(NETWORKS, rows=rows)
    Result("gpu", _targets(runs, rows), runs, settings=settings).tell(options)


def _targets(runs: dict[str, list[Figures]], rows: int) -> list[Target]:
    def median(side: str, figure: str) -> float:
        return spread(runs[side], figure).median

    unit = "images/s"
    extraction = median("alexnet", "extract_images_per_s")
    training = median("alexnet", "train_images_per_s")
    return [
        Target("AlexNet, extraction", extraction, EXTRACTION, unit),
        Target("AlexNet, training", training, TRAINING, unit),
        Target("VGG-16, extraction", median("vgg16", "extract_images_per_s"), None, unit),
        Target("VGG-16, training", median("vgg16", "train_images_per_s"), VGG_TRAINING, unit),
        Target(
            f"cluster stage, {rows:,} x 4,096",
            median("cluster", "seconds"),
            CLUSTER_S if rows >= FULL_ROWS else None,
            "s",
            at_most=True,
        ),
    ]


if __name__ == "__main__":
    sys.exit(guarded(main))
