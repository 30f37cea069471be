"""The lines of `benchmarks.gpu`: feed and network together, and all predictions.

Suffixes: B images of a batch, N rows, D features, Q kept features, M draws, X bytes.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import gpu_parts as parts
from benchmarks.gpu_parts import (
    Bench,
    Sizes,
    Watch,
    checksum_function,
    learner_of,
    network_of,
    random_cut,
)
from deepcluster_core.artifacts.image_layout import ImageLayout
from deepcluster_core.clustering.faiss_index import Library, load_faiss
from deepcluster_core.context import StepName
from deepcluster_core.device_feed.crops import Cut
from deepcluster_core.device_feed.feed import Feed, Request
from deepcluster_core.features import extract_features
from deepcluster_core.limits import num_cores
from deepcluster_core.training.epoch import Batch, train_epoch


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    name: str
    unit: str
    predicted: str | None
    measure: Callable[[Bench], float]
    target: float | None = None
    stretch: float | None = None
    at_most: bool = False


class RandomImages:
    """Packed images of equal size in main memory; a `Source` of a feed."""

    def __init__(self, sizes: Sizes, channels: int) -> None:
        self._height, self._width = sizes.image
        self._length = self._height * self._width * channels
        generator = np.random.default_rng(0)
        size = sizes.num_images * self._length
        self._bytes_X = generator.integers(256, size=size, dtype=np.uint8)
        self._checksum = checksum_function()
        images_NX = self._bytes_X.reshape(sizes.num_images, -1)
        self._checksum_N = [*map(self._checksum, images_NX)] if self._checksum else []

    def copy(
        self,
        image_id_B: NDArray[np.int64],
        allocate: Callable[[int], NDArray[np.uint8]],
        *,
        is_verified: bool,
    ) -> ImageLayout:
        """Copy images one by one, as `PackedPixels` does."""
        length = self._length
        into_X = allocate(len(image_id_B) * length)
        for number, image_id in enumerate(image_id_B.tolist()):
            source = self._bytes_X[image_id * length : (image_id + 1) * length]
            copied = into_X[number * length : (number + 1) * length]
            copied[:] = source
            if is_verified and self._checksum is not None:
                assert self._checksum(copied) == self._checksum_N[image_id]
        height_B = np.full(len(image_id_B), self._height)
        width_B = np.full(len(image_id_B), self._width)
        return ImageLayout(np.arange(len(image_id_B)) * length, height_B, width_B)


def training_per_s(bench: Bench, *, channels: int, step: StepName = "graph") -> float:
    """Return the pace of training from packed images in main memory, images/s."""
    sizes = bench.sizes
    learner = learner_of(bench, channels=channels)
    watch = Watch(bench, sizes.steps)
    order_M = np.random.default_rng(0).integers(sizes.num_images, size=sizes.steps * sizes.batch)

    def requests() -> Iterator[Request]:
        for number in range(sizes.steps):
            rows = slice(number * sizes.batch, (number + 1) * sizes.batch)
            ids_B = order_M[rows]
            cut = partial(random_cut, start=rows.start, size=sizes.side)
            yield Request(ids_B, (1,), cut, (ids_B[None] % sizes.clusters,))

    def batches() -> Iterator[Batch]:
        for fed in _feed(bench, channels).batches(requests(), workers=bench.workers):
            yield Batch(fed.views, (1,), fed.extras[0], None, np.arange(sizes.batch))

    train_epoch(learner, batches(), precision="auto", after_step=watch, step=step)
    return sizes.batch / watch.seconds_each


def extraction_per_s(bench: Bench, *, channels: int, is_default: bool = False) -> float:
    """Return the pace of extraction from packed images in main memory, images/s.

    Args:
        bench: device and sizes.
        channels: channels of the packed images.
        is_default: whether batch size and number of threads are those that the extract stage has
            by default, or those of the prediction.
    """
    sizes = bench.sizes
    batch_size = sizes.stage_batch if is_default else sizes.extraction_batch
    workers = num_cores() if is_default else bench.workers
    num_batches = sizes.extractions * sizes.extraction_batch // batch_size
    height, width = sizes.image
    network = network_of(bench, channels)
    left, top = (width - sizes.side) // 2, (height - sizes.side) // 2
    box = (left, top, left + sizes.side, top + sizes.side)

    def cut(height_B: NDArray[np.int64], _: NDArray[np.int64]) -> list[Cut]:
        count = len(height_B)
        return [Cut(np.tile(box, (count, 1)), np.zeros(count, np.bool_), sizes.side)]

    def requests() -> Iterator[Request]:
        for number in range(num_batches):
            first = number * batch_size
            ids_B = np.arange(first, first + batch_size) % sizes.num_images
            yield Request(ids_B, (1,), cut)

    # As in the extract stage, which compares the checksum of each image.
    feed = _feed(bench, channels, is_verified=True)
    fed = feed.batches(requests(), workers=workers)
    watch = Watch(bench, num_batches)
    for _ in extract_features(
        network,
        (batch.views[0] for batch in fed),
        layer=None,
        device=bench.name,
        precision="auto",
        dtype="float16",
    ):
        watch()
    return batch_size / watch.seconds_each


def cluster_s(bench: Bench, *, library: Library) -> float:
    """Return the time of PCA, projection and 20 iterations of k-means, features on the device.

    Reading the features, which lie on the device here, and writing the labels are not included.

    Args:
        bench: device and sizes.
        library: what searches for the nearest centroids.

    Raises:
        ConfigError: faiss searches, but it cannot be imported.
    """
    if library == "faiss":
        load_faiss()  # before all other work, because the search comes last
    from deepcluster_core.clustering.device_rows import ProjectedOnDevice  # noqa: PLC0415
    from deepcluster_core.clustering.kmeans import KMeans  # noqa: PLC0415  the stage's own
    from deepcluster_core.clustering.pca import fit_pca  # noqa: PLC0415

    sizes = bench.sizes
    sizes_of_blocks = [8192] * (sizes.rows // 8192) + [sizes.rows % 8192]
    # Directions of unequal variance, as in features.
    scale_D = torch.linspace(2, 0.1, sizes.dim, device=bench.device)
    blocks = [(bench.random(size, sizes.dim) * scale_D).half() for size in sizes_of_blocks if size]
    torch.linalg.eigh(torch.eye(8, device=bench.device))  # loads the solver

    def read(rows: range) -> Iterator[torch.Tensor]:
        start = 0
        for block_BD in blocks:
            first, end = max(rows.start - start, 0), rows.stop - start
            if first < len(block_BD) and end > 0:
                yield block_BD[first:end]
            start += len(block_BD)

    bench.synchronize()
    begun_s = time.perf_counter()
    pca = fit_pca(
        read(range(sizes.rows)), dim=sizes.pca_dim, num_rows=sizes.rows, device=bench.device
    )
    project = pca.to(bench.device).whiten
    rows = ProjectedOnDevice(sizes.rows, sizes.pca_dim, read, project)
    KMeans(sizes.clusters, library=library).fit(rows, seed=0, device=bench.name)
    bench.synchronize()
    return time.perf_counter() - begun_s


def _feed(bench: Bench, channels: int, *, is_verified: bool = False) -> Feed:
    images = _images(bench.sizes, channels)
    return Feed(images, channels=channels, device=bench.name, is_verified=is_verified)


@cache
def _images(sizes: Sizes, channels: int) -> RandomImages:
    return RandomImages(sizes, channels)


LINES = (
    Line("copy, pageable memory, 38.5 MB", "ms", "3-5", partial(parts.copy_ms, is_pinned=False)),
    Line("copy, pinned memory, 38.5 MB", "ms", "0.8", partial(parts.copy_ms, is_pinned=True)),
    Line("crop kernel, one channel", "ms", "0.4", partial(parts.crops_ms, channels=1)),
    Line("crop kernel, three channels", "ms", "0.4-1.2", partial(parts.crops_ms, channels=3)),
    Line("Sobel's filter, one kernel", "ms", "0.05-0.1", partial(parts.sobel_ms, is_kernel=True)),
    Line("Sobel's filter, by torch", "ms", "0.8", partial(parts.sobel_ms, is_kernel=False)),
    Line(
        "step, eager, given choice",
        "ms",
        "8-9",
        partial(parts.step_ms, step="eager", is_chosen=False),
    ),
    Line("step, eager, measured choice", "ms", "7-9", partial(parts.step_ms, step="eager")),
    Line("step, CUDA graph", "ms", "7-9", partial(parts.step_ms, step="graph")),
    Line(
        "training, grey packed",
        "images/s",
        "28,000-36,000",
        partial(training_per_s, channels=1),
        target=20_000,
        stretch=40_000,
    ),
    Line(
        "training, grey packed, eager steps",
        "images/s",
        None,
        partial(training_per_s, channels=1, step="eager"),
    ),
    Line(
        "extraction, grey packed",
        "images/s",
        "60,000-80,000",
        partial(extraction_per_s, channels=1),
        target=40_000,
        stretch=80_000,
    ),
    Line(
        "extraction, grey packed, stage's defaults",
        "images/s",
        None,
        partial(extraction_per_s, channels=1, is_default=True),
    ),
    Line(
        "cluster stage without files, torch",
        "s",
        "6-9",
        partial(cluster_s, library="torch"),
        target=12,
        stretch=8,
        at_most=True,
    ),
    Line("cluster stage without files, faiss", "s", "14-20", partial(cluster_s, library="faiss")),
    Line("eigh, float64", "s", "0.7-1.5", parts.eigh_s),
    Line("k-means pass, TF32", "ms", "55", partial(parts.lloyd_pass_ms, is_tf32=True)),
    Line("k-means pass, float32", "ms", "150-190", partial(parts.lloyd_pass_ms, is_tf32=False)),
    Line(
        "conv1, 2 channels",
        "ms",
        None,
        partial(parts.conv1_ms, channels=2, kernel=11, side=228, stride=4),
    ),
    Line(
        "conv1, 32 channels",
        "ms",
        None,
        partial(parts.conv1_ms, channels=32, kernel=3, side=57, stride=1),
    ),
    Line("JPEG on the device", "images/s", "15,000-35,000", parts.jpegs_per_s),
    Line("training, colour packed", "images/s", None, partial(training_per_s, channels=3)),
    Line("extraction, colour packed", "images/s", None, partial(extraction_per_s, channels=3)),
    Line("step, compiled", "ms", "6-8", parts.compiled_step_ms),
)
