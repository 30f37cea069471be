"""JPEGs like ImageNet's, cut from real photographs.

The photographs are the two that scikit-learn ships, 640 x 427 pixels each. Real photographs are
needed because the time to decode a JPEG depends on its content: noise takes longer than any
photograph, and flat colour takes almost no time. Files have about 50 kB, half of ImageNet's mean,
so decoding is cheaper, which favours a program that decodes the originals in every epoch.
"""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import BenchmarkError
from benchmarks.machine import num_cores

PHOTOGRAPHS = ("china", "flower")
SIDES_PX = (375, 500)
QUALITY = 90


def write_pictures(folder: Path, *, count: int, seed: int = 0) -> None:
    """Write `folder/<photograph>/<number>.jpg`; the same seed gives the same pixels.

    Args:
        folder: folder to create.
        count: number of pictures; half of them are cut from each photograph.
        seed: seed of every cut.

    Raises:
        BenchmarkError: scikit-learn is not installed.
    """
    photographs = [_photograph(name) for name in PHOTOGRAPHS]
    for name in PHOTOGRAPHS:
        (folder / name).mkdir(parents=True)

    def write(number: int) -> None:
        which = number % len(PHOTOGRAPHS)
        # A generator for each picture: the result does not depend on the order of the threads.
        generator = np.random.default_rng([seed, number])
        picture = cut(photographs[which], generator)
        path = folder / PHOTOGRAPHS[which] / f"{number:06d}.jpg"
        picture.save(path, quality=QUALITY)

    with ThreadPoolExecutor(num_cores()) as pool:
        list(pool.map(write, range(count)))  # `list` raises the errors of the threads


def cut(photograph: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return a random part, half to all of what fits, mirrored or not.

    Its sides are 375 to 500 pixels, so it is a little enlarged or reduced, by the same factor in
    both directions.
    """
    width, height = photograph.size
    sides_px = generator.integers(*SIDES_PX, size=2, endpoint=True)
    to_width, to_height = sides_px.tolist()
    part = generator.uniform(0.5, 1)
    # The part has the proportions of the result, so that nothing is distorted.
    greatest_height = min(height, width * to_height / to_width)
    part_height = part * greatest_height
    part_width = part_height * to_width / to_height
    left = generator.uniform(0, width - part_width)
    top = generator.uniform(0, height - part_height)
    box = (left, top, left + part_width, top + part_height)
    if generator.random() < 0.5:
        photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return photograph.resize((to_width, to_height), Image.Resampling.BICUBIC, box=box)


def _photograph(name: str) -> Image.Image:
    """Read a file of `sklearn.datasets.load_sample_image` without its import, which is slow."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise BenchmarkError(
            "the photographs of scikit-learn are needed, which is not installed.\n"
            "  Fix: pip install scikit-learn"
        )
    package = Path(found.submodule_search_locations[0])
    path = package / "datasets" / "images" / f"{name}.jpg"
    return Image.open(path).convert("RGB")
