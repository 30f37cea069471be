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
"""The farthest that a digit is moved in each direction, pixels."""


def write_moved_digits(path: str, count: int) -> None:
    """Write a Parquet file of `count` PNGs: the digits over and over, each moved by some pixels."""
    source = open_source(DIGITS, kind="parquet", labels="auto")
    digits = [(image.read(), image.label) for image in source.images()]
    generator = np.random.default_rng(0)
    moves_N2 = generator.integers(-MOVED_PX, MOVED_PX, (count, 2), endpoint=True)

    def moved(number: int, png: bytes, label: str | None) -> dict[str, object]:
        pixels_HW = np.asarray(Image.open(io.BytesIO(png)))
        moved_HW = np.roll(pixels_HW, moves_N2[number], axis=(0, 1))
        file = io.BytesIO()
        Image.fromarray(moved_HW).save(file, "PNG")
        path = f"{number:06d}-{label}.png"
        return {"bytes": file.getvalue(), "path": path}

    # Once all digits were used, they start over; every image is moved by its own random amount.
    pngs: list[bytes] = []
    labels: list[str | None] = []
    for png, label in islice(cycle(digits), count):
        pngs.append(png)
        labels.append(label)
    with ThreadPoolExecutor(num_cores()) as pool:
        images = list(pool.map(moved, range(count), pngs, labels))
    numbers = [int(label or -1) for label in labels]
    pd.DataFrame({"image": images, "label": numbers}).to_parquet(path)
