"""The input of benchmarks on images: ImageNet-like pictures, and runs prepared from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Figures, Side, log
from benchmarks.machine import ROOT, num_cores
from benchmarks.pictures import write_pictures

RECIPE = str(ROOT / "configs" / "imagenet-alexnet.yaml")

Overrides = Mapping[str, Any]
"""Nested keys that replace those of the recipe."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready for epoch 1, with packed images, labels and a checkpoint."""

    folder: Path
    overrides: dict[str, Any]
    packing: Figures
    """The figures `index_s` and `packed_bytes`."""

    def side(self, function: str) -> Side:
        """Return our side of a benchmark, which is a function of `benchmarks.ours`."""
        return Side(f"benchmarks.ours:{function}", _arguments(self.overrides, self.folder))


@dataclass(frozen=True)
class Workload:
    """Pictures from which runs and baselines are made."""

    folder: Path
    count: int
    mean_bytes: int
    """Mean size of a picture's file, bytes."""

    def prepare(self, name: str, encoding: str, overrides: Overrides) -> PreparedRun:
        """Bring a new run to its epoch 1; pack the pictures unless an earlier run has done so."""
        log(f"preparing the run {name}, images packed as {encoding}")
        complete = self._overrides(overrides)
        complete["dataset"]["encoding"] = encoding
        # Runs of one encoding share their packed images.
        complete["images"] = str(self.folder / f"images-{encoding}")
        run = self.folder / name
        packing = Side("benchmarks.ours:prepare", _arguments(complete, run)).run()
        return PreparedRun(run, complete, packing)

    def baseline(self, function: str, overrides: Overrides, *, workers: int, **more: str) -> Side:
        """Return the baseline's side, a function of `baseline_sides` on the original pictures."""
        arguments = {"recipe": RECIPE, "overrides": self._overrides(overrides), "workers": workers}
        return Side(f"benchmarks.baseline_sides:{function}", arguments | more)

    def settings(self, overrides: Overrides, **more: object) -> dict[str, Any]:
        """Return the settings on which the figures depend, for the JSON."""
        return {
            "recipe": Path(RECIPE).name,
            "overrides": dict(overrides),
            "images": self.count,
            "mean_jpeg_bytes": self.mean_bytes,
            "threads": num_cores(),
            **more,
        }

    def _overrides(self, overrides: Overrides) -> dict[str, Any]:
        """Return new overrides that also name the pictures and two epochs."""
        dataset = {"source": str(self.folder / "pictures"), **overrides.get("dataset", {})}
        return {"epochs": 2, **overrides, "dataset": dataset}


def make_workload(folder: Path, *, count: int) -> Workload:
    """Write `count` pictures to `folder`, which must exist and will hold the runs, too."""
    log(f"making {count:,} pictures")
    pictures = folder / "pictures"
    write_pictures(pictures, count=count)
    written_bytes = sum(path.stat().st_size for path in pictures.rglob("*.jpg"))
    mean_bytes = round(written_bytes / count)
    return Workload(folder, count, mean_bytes)


def _arguments(overrides: dict[str, Any], run: Path) -> dict[str, Any]:
    return {"recipe": RECIPE, "overrides": overrides, "run": str(run)}
