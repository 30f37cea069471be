"""The environment of all tests, and a source of small drawn pictures."""

# ruff: noqa: E402  the environment comes first, see below

import os
import tempfile

# Prefect reads its settings when it is first imported: nobody's profile, server or key may count.
for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]
HOME = tempfile.TemporaryDirectory(prefix="prefect-home-", ignore_cleanup_errors=True)
os.environ["PREFECT_HOME"] = HOME.name
from flows.engine.environment import prepare

prepare()  # settings of OpenMP and Prefect, before those are imported

from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image, ImageDraw

# The same examples every time: a red run stays red, and is repeated by running it again.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

LONGEST = {"test_readme.py", "test_sweep.py", "test_cli.py", "test_voc_detection.py"}
CLASSES = ("bar", "cross", "disc", "square")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, or one worker ends with one while others idle."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Compute in one thread: on shared cores, two wait for each other longer than they work."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


def draw_images(root: Path, *, per_class: int = 60, side: int = 24, seed: int = 0) -> Path:
    """Write `root/<class>/<number>.png` or `.jpg`: a shape of random place, size and colour, noisy.

    Every other picture of a class is a JPEG. Sides are `side` to `side + 6` pixels. The same
    seed gives the same bytes; 240 pictures take 0.1 s.
    """
    generator = np.random.default_rng(seed)
    for name in CLASSES:
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            picture = draw_picture(name, side=side, generator=generator)
            picture.save(folder / f"{number:03d}{'.jpg' if number % 2 else '.png'}")
    return root


def draw_picture(name: str, *, side: int, generator: np.random.Generator) -> Image.Image:
    """Return one picture of a class, in colour."""
    width, height = (int(n) for n in generator.integers(side, side + 7, size=2))
    picture = Image.new("RGB", (width, height), (40, 40, 40))
    brush = ImageDraw.Draw(picture)
    shade = tuple(int(n) for n in generator.integers(150, 255, size=3))
    half = int(generator.integers(side // 5, side // 3))
    x, y = (int(n) for n in generator.integers(half, side - half, size=2))
    left, top, right, bottom = x - half, y - half, x + half, y + half
    match name:
        case "disc":
            brush.ellipse((left, top, right, bottom), fill=shade)
        case "square":
            brush.rectangle((left, top, right, bottom), outline=shade, width=2)
        case "bar":
            brush.rectangle((x - 2, 0, x + 2, height), fill=shade)
        case _:
            brush.line((left, top, right, bottom), fill=shade, width=2)
            brush.line((left, bottom, right, top), fill=shade, width=2)
    noise = generator.normal(0, 12, size=(height, width, 3))
    noisy = np.clip(np.asarray(picture) + noise, 0, 255)
    return Image.fromarray(noisy.astype(np.uint8))


@pytest.fixture
def make_images() -> Callable[..., Path]:
    """Return `draw_images`, for a test that needs a tree of its own."""
    return draw_images


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 240 pictures in 4 class folders. Shared: a test must not change it."""
    return draw_images(tmp_path_factory.mktemp("source") / "shapes")
