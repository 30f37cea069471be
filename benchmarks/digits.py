"""The embedded MNIST images as PNG files in class folders, which both sides of a benchmark read."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import ROOT
from deepcluster_core.data.sources import open_source

DIGITS = ROOT / "configs" / "data" / "mnist-test.parquet"


DARKEST_INK, BRIGHTEST_GROUND = 155, 100
"""Bounds of the values of ink and ground in each channel, so that a digit shows in all of them."""


def write_digits(folder: Path, *, every: int = 1, coloured: bool = False) -> int:
    """Write every `every`-th image as `folder/<digit>/<number>.png`; return their number.

    Args:
        folder: folder to write to.
        every: 1 for all images.
        coloured: give each digit a random bright colour on a random dark one.
    """
    num_written = 0
    source = open_source(DIGITS, kind="parquet", labels="auto")
    for number, image in enumerate(source.images()):
        if number % every != 0:
            continue
        path = folder / str(image.label) / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_coloured(image.read(), number) if coloured else image.read())
        num_written += 1
    return num_written


def _coloured(data: bytes, seed: int) -> bytes:
    """Return a grey PNG as one in colours, which depend on the seed."""
    generator = np.random.default_rng(seed)
    ink_3 = generator.integers(DARKEST_INK, 255, size=3, endpoint=True)
    ground_3 = generator.integers(0, BRIGHTEST_GROUND, size=3, endpoint=True)
    share_HW1 = np.asarray(Image.open(BytesIO(data)).convert("L"))[..., np.newaxis] / 255
    pixels_HW3 = ground_3 + (ink_3 - ground_3) * share_HW1
    file = BytesIO()
    Image.fromarray(np.rint(pixels_HW3).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
