"""Networks in memory against the bound of the processor: its float32 matrix product.

Each side is one network of the recipes, extracting features or training on batches that lie in
memory, in turns with products of large matrices in the same process. Its share is the arithmetic
of its convolutions and linear layers in a second, divided by that of the products. A share of 1
means that everything else (batch normalisation, pooling, the filter, Python) costs nothing. It can
be above 1 with bfloat16, where the products do not use all instructions of the processor, and where
convolutions need fewer multiplications than counted (`deepcluster_core.models.winograd`).

`python -m tests.processors avx2 -- python -m benchmarks.bound` measures as on an older processor.
"""

import sys

from benchmarks.harness import Result, Side, Target, alternate, guarded, spread
from benchmarks.options import Options, parser

NETWORKS = {
    "alexnet, 224 px": ({"name": "alexnet", "image_size": 224}, 64, 0.85),
    "smallnet, 64 px": ({"name": "smallnet", "image_size": 64}, 256, 0.6),
    "smallnet, 32 px": ({"name": "smallnet", "image_size": 32}, 64, 0.6),
}
"""Settings of the network, images in a batch as the recipes train them (AlexNet: a quarter of
that, which fits any machine), and the share to reach in float32."""
WORK = ("extraction", "training")
SECONDS, QUICK_S = 10.0, 1.0
"""Duration of a turn of a side, seconds."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("bound", __doc__)
    arguments.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="number format of the networks; the products are always float32",
    )
    given = arguments.parse_args(argv)
    options = Options.of(given)
    seconds = options.size(SECONDS, QUICK_S)
    sides: dict[str, Side] = {}
    for name, (network, batch_size, _) in NETWORKS.items():
        for work in WORK:
            settings = {
                "network": network,
                "batch_size": batch_size,
                "precision": given.precision,
                "seconds_at_least": seconds,
            }
            sides[f"{name}, {work}"] = Side(f"benchmarks.bound_sides:{work}", settings)
    runs = alternate(sides, repeats=options.repeats)
    targets: list[Target] = []
    for name, (_, _, bound) in NETWORKS.items():
        for work in WORK:
            figures = runs[f"{name}, {work}"]
            wanted = bound if given.precision == "float32" else None
            targets.append(Target(f"{name}, {work}", spread(figures, "share").median, wanted))
    name = f"bound, {given.precision}"
    Result(name, targets, runs, settings={"precision": given.precision}).report(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
