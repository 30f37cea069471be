"""The embedded MNIST images as PNG files in class folders, which both sides of a benchmark read."""

from pathlib import Path

from benchmarks.machine import ROOT
from deepcluster_core.data.sources import open_source

DIGITS = ROOT / "configs" / "data" / "mnist-test.parquet"


def write_digits(folder: Path, *, every: int = 1) -> int:
    """Write every `every`-th image as `folder/<digit>/<number>.png`; return their number."""
    num_written = 0
    source = open_source(DIGITS, kind="parquet", labels="auto")
    for number, image in enumerate(source.images()):
        if number % every != 0:
            continue
        path = folder / str(image.label) / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.read())
        num_written += 1
    return num_written
