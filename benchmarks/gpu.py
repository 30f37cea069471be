"""An epoch of ImageNet's shape on one GPU: AlexNet with Sobel and VGG-16, k = 10,000.

Extraction and training read packed ImageNet-like images of 256 px, once as JPEG, which the shipped
recipe packs and which have to be decoded, once as raw pixels, and once as raw pixels of one channel
(`grey`). The targets are for the shipped
recipe. Raw pixels of all of ImageNet do not fit into the memory of most machines, and would be read
from a disk more slowly than here; a note reports whether they would fit. Paces are measured from
the first tenth of the batches to the last batch, because a stage's fixed seconds (reported
separately) are negligible over the 1.28 M images of ImageNet. The cluster stage runs on as many
random features as ImageNet has images, from disk: PCA of 4,096 dimensions to 256, whitening,
k-means. It needs CUDA, about 30 GB of disk, and memory for the packed images, 14 GB for 65,536.
"""

import sys

from benchmarks.harness import (
    BenchmarkError,
    Result,
    Runs,
    Side,
    Target,
    alternate,
    guarded,
    scratch,
    spread,
)
from benchmarks.options import Options, add_images, parser, positive
from benchmarks.workload import make_workload
from deepcluster_core.limits import available_memory

FULL_IMAGES, QUICK_IMAGES = 65_536, 16_384
FULL_ROWS, QUICK_ROWS = 1_281_167, 131_072
K = 10_000
SHIPPED = "jpeg"
"""The encoding of the shipped recipe."""
ENCODINGS = (SHIPPED, "raw", "grey")
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
"""Bounds of the targets: images per second, and seconds of the cluster stage."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("gpu", __doc__)
    add_images(arguments, full=FULL_IMAGES, quick=QUICK_IMAGES)
    arguments.add_argument(
        "--rows",
        type=positive,
        help=f"number of rows to cluster (default: {FULL_ROWS}, with --quick {QUICK_ROWS})",
    )
    given = arguments.parse_args(argv)
    options = Options.of(given)
    count = given.images or options.size(FULL_IMAGES, QUICK_IMAGES)
    rows = given.rows or options.size(FULL_ROWS, QUICK_ROWS)
    # A side asks torch, whose import takes seconds.
    if Side("benchmarks.ours:devices").run()["devices"] == 0:
        raise BenchmarkError(
            "this machine has no CUDA device, which the gpu benchmark needs.\n"
            "  Fix: run it where torch.cuda.is_available(), or run a different benchmark."
        )
    runs: Runs = {}
    notes: list[str] = []
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        for name, overrides in NETWORKS.items():
            sides: dict[str, Side] = {}
            packed_bytes: dict[str, float] = {}
            for encoding in ENCODINGS:
                run = workload.prepare(f"{name}-{encoding}", encoding, overrides)
                sides[f"{name}, {encoding}"] = run.side("epoch")
                packed_bytes[encoding] = run.packing["packed_bytes"]
            runs |= alternate(sides, repeats=options.repeats)
            # The notes of the last network are kept: all networks read equal images.
            notes = [
                _memory_note(encoding, packed_bytes[encoding] / count, available_memory())
                for encoding in ENCODINGS
            ]
        random = str(folder / "random")
        features = {"run": random, "count": rows, "dim": 4096}
        Side("benchmarks.ours:write_random_run", features).run()
        clustering = Side("benchmarks.ours:clustering", {"run": random, "k": K})
        runs |= alternate({"cluster": clustering}, repeats=options.repeats)
    settings = workload.settings(NETWORKS, rows=rows)
    targets = _targets(runs, rows)
    Result("gpu", targets, runs, settings=settings, notes=notes).report(options)


def _targets(runs: Runs, rows: int) -> list[Target]:
    def median(side: str, figure: str) -> float:
        return spread(runs[side], figure).median

    titles = {"alexnet": "AlexNet", "vgg16": "VGG-16"}
    # Only the encoding of the shipped recipe has bounds, and no extraction bound exists for VGG-16.
    extraction_bounds = {("alexnet", SHIPPED): EXTRACTION}
    training_bounds = {("alexnet", SHIPPED): TRAINING, ("vgg16", SHIPPED): VGG_TRAINING}
    unit = "images/s"
    targets: list[Target] = []
    for encoding in ENCODINGS:
        for name, title in titles.items():
            side = f"{name}, {encoding}"
            pace = median(side, "extract_images_per_s")
            bound = extraction_bounds.get((name, encoding))
            targets.append(Target(f"{title}, extraction, {encoding}", pace, bound, unit))
            pace = median(side, "train_images_per_s")
            bound = training_bounds.get((name, encoding))
            targets.append(Target(f"{title}, training, {encoding}", pace, bound, unit))
    seconds = median("cluster", "seconds")
    bound = CLUSTER_S if rows >= FULL_ROWS else None
    targets.append(Target(f"cluster stage, {rows:,} x 4,096", seconds, bound, "s", at_most=True))
    return targets


def _memory_note(encoding: str, bytes_per_image: float, available: int) -> str:
    """Return a note on whether all of ImageNet, packed like this, would fit into the memory."""
    imagenet_bytes = bytes_per_image * FULL_ROWS
    fits = "fit into" if imagenet_bytes < available else "do not fit into"
    return (
        f"{encoding}: {FULL_ROWS:,} images like these are {imagenet_bytes / 1e9:,.0f} GB, "
        f"which {fits} the {available / 1e9:,.0f} GB of memory available here."
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
