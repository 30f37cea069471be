"""Does our DeepCluster-v2 learn what a plain loop learns? Loss, neighbours, seconds an epoch.

Both sides have the same network, views, clusterings, bank and learning rates
(`benchmarks.plain_v2`), several seeds each. The differences should be within what seeds alone make.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, Runs, Side, Target, alternate, guarded, scratch, spread
from benchmarks.learning import agreement
from benchmarks.machine import ROOT
from benchmarks.options import Options, parser, positive
from deepcluster_core.config_yaml import merged

RECIPE = str(ROOT / "configs" / "own-images.yaml")
FIRST_SEED = 31
FULL_EPOCHS, QUICK_EPOCHS = 10, 2
MEASURES = {
    "loss": "loss of the last epoch",
    "neighbours_class": "10-NN, class",
    "neighbours_object": "10-NN, object",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    given = _arguments().parse_args(argv)
    options = Options.of(given)
    epochs = given.epochs or options.size(FULL_EPOCHS, QUICK_EPOCHS)
    num_images = given.images or options.size(None, 500)
    runs: Runs = {"plain": [], "ours": []}
    with scratch(options) as folder:
        overrides = v2_overrides(given.network, small=given.small, epochs=epochs)
        dataset = {"source": str(given.data.resolve()), "subset": num_images}
        shared = {"dataset": dataset, "images": str(folder / "images")}
        overrides = merged(overrides, shared)
        packing = {"recipe": RECIPE, "overrides": overrides, "run": str(folder / "packing")}
        facts = Side("benchmarks.quality_sides:packed", packing).run()
        for seed in range(FIRST_SEED, FIRST_SEED + options.repeats):
            arguments = {"recipe": RECIPE, "overrides": overrides | {"seed": seed}}
            run = {"run": str(folder / f"seed={seed}")}
            sides = {
                "plain": Side("benchmarks.parity_sides:plain", arguments),
                "ours": Side("benchmarks.parity_sides:ours", arguments | run),
            }
            for name, figures in alternate(sides, repeats=1).items():
                runs[name] += figures
    Result(
        "parity",
        _targets(runs),
        runs,
        settings={"images": int(facts["images"]), "epochs": epochs, "network": given.network},
        notes=[f"{options.repeats} seeds of each, {epochs} epochs."],
    ).report(options)


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("parity", __doc__)
    arguments.add_argument("--data", type=Path, required=True, help="RGB images with labels")
    arguments.add_argument("--images", type=positive, help="number of images (default: all)")
    arguments.add_argument("--epochs", type=positive, help=f"epochs (default: {FULL_EPOCHS})")
    arguments.add_argument(
        "--network", default="torchvision:resnet18", help="a ResNet (default: %(default)s)"
    )
    arguments.add_argument(
        "--small", type=positive, default=32, help="side of small views (default: %(default)s px)"
    )
    return arguments


def v2_overrides(network: str, *, small: int, epochs: int) -> dict[str, Any]:
    """Return the recipe of both sides: the paper's method, for small images."""
    views = [
        {"count": 2, "size": 64, "area": [0.3, 1.0]},
        {"count": 4, "size": small, "area": [0.1, 0.3]},
    ]
    return {
        "epochs": epochs,
        "network": {"name": network, "sobel": False, "projection": {"hidden": 512, "dim": 128}},
        "extract": {"layer": "projection"},
        "cluster": {
            "algorithm": "spherical",
            "k": [50, 50, 50],
            "pca_dim": "none",
            "whiten": False,
            "iterations": 10,
        },
        "train": {
            "views": views,
            "prototypes": {"bank": True},
            "balance": "none",
            "batch_size": 64,
            "reassign_every": 1.0,
            "lr": 0.05,
            "schedule": {"epochs": epochs},
        },
    }


def _targets(runs: Runs) -> list[Target]:
    targets = [
        agreement(runs["ours"], runs["plain"], measure, title)
        for measure, title in MEASURES.items()
        if measure in runs["plain"][0]
    ]
    plain_s, ours_s = spread(runs["plain"], "epoch_s"), spread(runs["ours"], "epoch_s")
    speed_up = plain_s.median / ours_s.median
    return [*targets, Target("epoch, plain over ours", speed_up, unit="x")]


if __name__ == "__main__":
    sys.exit(guarded(main))
