"""The sides of the `feed` benchmark. Suffix: B images of a batch."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Figures
from deepcluster_core.artifacts.commit import new_artifact
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.images_writer import ImagesWriter, PackedImage
from deepcluster_core.context import Context
from deepcluster_core.data.augment import Augmentation, ViewKind, Views
from deepcluster_core.data.views import RandomCrop
from deepcluster_core.device_feed.crops import Cut
from deepcluster_core.device_feed.feed import Feed, Request
from deepcluster_core.device_feed.queues import Queues
from deepcluster_core.device_feed.slots import Ring
from deepcluster_core.device_feed.source import source_of
from deepcluster_core.stage import Stage

BATCH, SIZE = 256, 224
VIEWS = Views((ViewKind(1, SIZE, RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), 0.5)),), Augmentation(), 0)


def pack(folder: str, count: int, shape: tuple[int, int, int]) -> Figures:
    """Write an images artifact of raw noise."""
    height, width, channels = shape
    generator = np.random.default_rng(0)
    noise = generator.integers(256, size=(64, height, width, channels), dtype=np.uint8)
    stage = Stage(name="index", version=1, kind="images", files=())
    with new_artifact(stage, Path(folder), config={}, inputs={}, context=Context(seed=0)) as draft:
        with ImagesWriter(Path(folder), packs=True) as writer:
            for number in range(count):
                pixels = noise[number % len(noise)].tobytes()
                image = PackedImage(str(number), None, width, height, "RAW", height, width, pixels)
                writer.add(image)
        draft.rows = count
        draft.facts = {
            "encoding": "raw",
            "channels": channels,
            "shorter_side": min(height, width),
            "deep": "range",
            "originals": "None",
        }
    return {"seconds": 0.0}


def slots(folder: str, num_batches: int) -> Figures:
    """Fill slots with batches, in one thread and without a device."""
    pictures = Images(Path(folder))
    queues = Queues.of("cpu")
    feed = Feed(source_of(pictures), channels=pictures.packed_channels, device=queues)
    ring = Ring(queues)

    def fill(number: int) -> None:
        ids_B = _ids(number, len(pictures))

        def cut(height_B: np.ndarray, width_B: np.ndarray) -> list[Cut]:
            boxes = VIEWS.boxes(height_B, width_B, number * BATCH)
            return [Cut(box_V4, flipped_V, SIZE) for box_V4, flipped_V in boxes]

        feed.load(ring, number, Request(ids_B, (1,), cut))
        ring.sent()

    return _paced(fill, num_batches)


def views(folder: str, num_batches: int) -> Figures:
    """Make the views of batches in main memory, in one thread."""
    torch.set_num_threads(1)
    pictures = Images(Path(folder))

    def make(number: int) -> None:
        images = [pictures[image_id] for image_id in _ids(number, len(pictures)).tolist()]
        VIEWS.of_images(images, number * BATCH, pictures.channels)

    return _paced(make, max(2, num_batches // 10))


def _ids(number: int, count: int) -> np.ndarray:
    return np.random.default_rng(number).integers(count, size=BATCH)


def _paced(work: Callable[[int], None], num_batches: int) -> Figures:
    """Return the pace of some work on batches, after as many batches that fill the page cache."""
    for number in range(num_batches):
        work(number)
    begun_s = time.perf_counter()
    for number in range(num_batches, 2 * num_batches):
        work(number)
    seconds = time.perf_counter() - begun_s
    num_images = num_batches * BATCH
    return {
        "seconds": seconds,
        "images_per_s": num_images / seconds,
        "us_per_image": 1e6 * seconds / num_images,
    }
