"""An epoch of ImageNet's shape on one GPU: AlexNet with Sobel and VGG-16, k = 10,000.

Extraction and training read packed ImageNet-like images of 256 px, once as JPEG, which the shipped
recipe packs and which have to be decoded, and once as raw pixels; the targets are for the shipped
recipe. Raw pixels of all of ImageNet do not fit into the memory of most machines, and a note says
what is there: from a disk they are read more slowly than here. Paces are those between
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
from deepcluster_core.limits import available_memory

FULL_IMAGES, QUICK_IMAGES = 65_536, 16_384
FULL_ROWS, QUICK_ROWS = 1_281_167, 131_072
K = 10_000
SHIPPED = "jpeg"
"""The encoding of the shipped recipe."""
ENCODINGS = (SHIPPED, "raw")
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
    """Run the benchmark, print its table and write its JSON file."""
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
    notes: list[str] = []
    with scratch(options) as folder:
        workload = make_workload(folder, count=count)
        for name, overrides in NETWORKS.items():
            prepared = {
                encoding: workload.prepare(f"{name}-{encoding}", encoding, overrides)
                for encoding in ENCODINGS
            }
            sides = {f"{name}, {each}": run.side("epoch") for each, run in prepared.items()}
            runs |= alternate(sides, repeats=options.repeats)
            notes = [
                _memory_note(each, run.packing["packed_bytes"] / count, available_memory())
                for each, run in prepared.items()
            ]
        random = str(folder / "random")
        given = {"run": random, "count": rows, "dim": 4096}
        Side("benchmarks.ours:write_random_run", given).run()
        clustering = Side("benchmarks.ours:clustering", {"run": random, "k": K})
        runs |= alternate({"cluster": clustering}, repeats=options.repeats)
    settings = workload.settings(NETWORKS, rows=rows)
    Result("gpu", _targets(runs, rows), runs, settings=settings, notes=notes).tell(options)


def _targets(runs: dict[str, list[Figures]], rows: int) -> list[Target]:
    def median(side: str, figure: str) -> float:
        return spread(runs[side], figure).median

    unit = "images/s"
    targets: list[Target] = []
    for encoding in ENCODINGS:
        shipped = encoding == SHIPPED
        for name, title, training in (
            ("alexnet", "AlexNet", TRAINING),
            ("vgg16", "VGG-16", VGG_TRAINING),
        ):
            side = f"{name}, {encoding}"
            wanted = EXTRACTION if shipped and name == "alexnet" else None
            pace = median(side, "extract_images_per_s")
            targets.append(Target(f"{title}, extraction, {encoding}", pace, wanted, unit))
            pace = median(side, "train_images_per_s")
            wanted = training if shipped else None
            targets.append(Target(f"{title}, training, {encoding}", pace, wanted, unit))
    targets.append(
        Target(
            f"cluster stage, {rows:,} x 4,096",
            median("cluster", "seconds"),
            CLUSTER_S if rows >= FULL_ROWS else None,
            "s",
            at_most=True,
        ),
    )
    return targets


def _memory_note(encoding: str, bytes_per_image: float, available: int) -> str:
    """Return what all of ImageNet takes, packed like this, beside the memory that is there."""
    whole = bytes_per_image * FULL_ROWS
    fits = "fit into" if whole < available else "do not fit into"
    return (
        f"{encoding}: {FULL_ROWS:,} images like these are {whole / 1e9:,.0f} GB, which {fits} the "
        f"{available / 1e9:,.0f} GB of memory available here."
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
