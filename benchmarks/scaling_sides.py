"""Images in any number, made of the embedded digits."""

import io
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.digits import DIGITS
from benchmarks.machine import num_cores
from deepcluster_core.data.sources import open_source

MOVED_PX = 3


def write_moved_digits(path: str, count: int) -> None:
    """Write a Parquet file of `count` PNGs: the digits over and over, each moved by some pixels."""
    digits = open_source(DIGITS, kind="parquet", labels="auto").images()
    held = [(image.read(), image.label) for image in digits]
    moves_N2 = np.random.default_rng(0).integers(-MOVED_PX, MOVED_PX, (count, 2), endpoint=True)

    def moved(number: int, png: bytes, label: str | None) -> dict[str, object]:
        pixels_HW = np.asarray(Image.open(io.BytesIO(png)))
        target = io.BytesIO()
        Image.fromarray(np.roll(pixels_HW, moves_N2[number], axis=(0, 1))).save(target, "PNG")
        return {"bytes": target.getvalue(), "path": f"{number:06d}-{label}.png"}

    chosen = list(islice(cycle(held), count))
    with ThreadPoolExecutor(num_cores()) as pool:
        images = list(pool.map(moved, range(count), *zip(*chosen, strict=True)))
    labels = [int(label or -1) for _, label in chosen]
    pd.DataFrame({"image": images, "label": labels}).to_parquet(path)
