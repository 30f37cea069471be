"""Parts of an epoch that `benchmarks.gpu` measures alone, and what its lines share.

Suffixes: B images of a batch, C channels, S side, N rows, D features, Q kept features, K clusters,
V views, F fields of a view, X bytes.
"""

import gc
import io
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from typing import Any, Self
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import BenchmarkError
from deepcluster_core.context import StepName
from deepcluster_core.data.views import FLIP_DRAW, RandomCrop, augmentation_draws, random_boxes
from deepcluster_core.device_feed.crops import CropTable, Cut, crop_resized
from deepcluster_core.limits import num_cores
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.models.sobel import Sobel
from deepcluster_core.training.epoch import Batch, Progress, PseudoLabelLearner, train_epoch
from deepcluster_core.training.heads import Fresh
from deepcluster_core.training.learner import Sgd
from deepcluster_core.training.steps import steps_of
from deepcluster_core.triton_support import missing_for_triton

PAPER_CROP = RandomCrop((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
AT_ONCE = 20
"""Calls of short work between two looks at the clock."""
MEASURED_SHARE = 0.8
"""Share of the steps that is measured; those before are warm-up and the recording."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the data."""

    image: tuple[int, int] = (256, 341)
    """Height and width: ImageNet's mean shape with a shorter side of 256 pixels."""
    num_images: int = 24_576
    """Packed images in main memory: 2.1 GB with one channel, 6.4 GB with three."""
    side: int = 224
    batch: int = 256
    extraction_batch: int = 1024
    stage_batch: int = 256
    """`ExtractConfig.batch_size`; this module cannot import it, because the stage needs pyarrow."""
    steps: int = 400
    extractions: int = 150
    """Batches of `extraction_batch` images that are extracted."""
    clusters: int = 10_000
    rows: int = 1_281_167
    dim: int = 4096
    pca_dim: int = 256
    network: str = "alexnet"

    @classmethod
    def quick(cls) -> Self:
        """Return sizes that take a CPU seconds."""
        return cls((24, 31), 96, 16, 8, 16, 8, 10, 4, 12, 600, 64, 16, "smallnet")


def checksum_function() -> Callable[[NDArray[np.uint8]], int] | None:
    """Return the function whose values extraction compares; None without its package."""
    with suppress(ImportError):
        from deepcluster_core.artifacts.checksum import crc32c  # noqa: PLC0415

        return crc32c
    return None


class Bench:
    """The device, the sizes and what several lines share."""

    def __init__(self, device: str, sizes: Sizes, repeats: int) -> None:
        self.device = torch.device(device)
        self.name = device
        self.sizes = sizes
        self.repeats = repeats

    def settings(self) -> dict[str, Any]:
        """Return what the figures depend on, as JSON values."""
        about = {
            "device": self.name,
            "threads": self.workers,
            "turns": self.repeats,
            "verified": checksum_function() is not None,
            "missing_for_triton": missing_for_triton(),
        }
        return {**asdict(self.sizes), **about}

    @property
    def workers(self) -> int:
        """Threads that fill slots."""
        return min(4, num_cores())

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def is_usable(self) -> bool:
        """Return whether the device can still be used in this process.

        After some errors, such as an access beyond its memory, every call of CUDA fails.
        """
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True

    def tidy(self) -> None:
        """Free the memory of the last line."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], object], *, warm_up: int = 2, at_once: int = 1) -> float:
        """Return the median time of some work.

        Args:
            work: what is measured.
            warm_up: calls before.
            at_once: calls that are started one after the other before the device is waited for, as
                in training; the time is that of one of them. Starting a single short kernel, and
                noticing its end, takes longer than the kernel.
        """
        for _ in range(warm_up):
            work()
        found: list[float] = []
        for _ in range(self.repeats):
            self.synchronize()
            begun_s = time.perf_counter()
            for _ in range(at_once):
                work()
            self.synchronize()
            found.append((time.perf_counter() - begun_s) / at_once)
        return statistics.median(found)

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return normal random numbers on the device."""
        return torch.randn(shape, device=self.device, dtype=dtype)


class Watch:
    """Measures the mean time of the last steps, in which nothing is new."""

    def __init__(self, bench: Bench, num_steps: int) -> None:
        self._bench = bench
        self._num_steps = num_steps
        self._first = round(num_steps * (1 - MEASURED_SHARE))
        self._num_done = 0
        self._begun_s = 0.0
        self.seconds_each = 0.0

    def __call__(self, _: Progress | None = None) -> None:
        """Count a step that is done."""
        self._num_done += 1
        if self._num_done == self._first:
            self._bench.synchronize()
            self._begun_s = time.perf_counter()
        elif self._num_done == self._num_steps:
            self._bench.synchronize()
            passed_s = time.perf_counter() - self._begun_s
            self.seconds_each = passed_s / (self._num_steps - self._first)


def network_of(bench: Bench, channels: int) -> Network:
    """Return the network, as initialised."""
    config = NetworkConfig(name=bench.sizes.network, image_size=bench.sizes.side)
    return build_network(config, channels=channels, seed=0)


def learner_of(bench: Bench, *, channels: int = 1) -> PseudoLabelLearner:
    """Return the network under a new head, on the device."""
    network = network_of(bench, channels)
    head = Fresh.drawn(network.output_dim, bench.sizes.clusters, seed=0)
    sgd = Sgd(0.01, 0.9, 1e-5)
    return PseudoLabelLearner(network, head=head, sgd=sgd, device=bench.name, dropout_seed=0)


def random_cut(
    height_B: NDArray[np.int64], width_B: NDArray[np.int64], start: int, size: int
) -> Sequence[Cut]:
    """Return the paper's random crops for images at positions `start`, `start` + 1, …."""
    draws_BR = augmentation_draws(0, start, len(height_B))
    box_B4 = random_boxes(height_B, width_B, draws_BR, PAPER_CROP)
    return [Cut(box_B4, draws_BR[:, FLIP_DRAW] < PAPER_CROP.flip, size)]


def _batch(bench: Bench) -> Batch:
    """Return a batch that is on the device already."""
    sizes = bench.sizes
    views_BCSS = torch.rand(sizes.batch, 1, sizes.side, sizes.side, device=bench.device)
    cluster_HB = torch.randint(sizes.clusters, (1, sizes.batch), device=bench.device)
    return Batch((views_BCSS,), (1,), cluster_HB, None, np.arange(sizes.batch))


def _check_kernels(bench: Bench) -> None:
    """Raise BenchmarkError if operations of torch would be measured in place of a kernel on a GPU.

    A CPU has no kernels, and only shows that the benchmark works.
    """
    missing = missing_for_triton()
    if bench.device.type == "cuda" and missing is not None:
        raise BenchmarkError(f"the kernel cannot run: Triton needs {missing}")


def copy_ms(bench: Bench, *, is_pinned: bool) -> float:
    """Return the time to copy the uint8 views of a batch to the device."""
    sizes = bench.sizes
    pinned = is_pinned and bench.device.type == "cuda"
    num_bytes = sizes.batch * sizes.side**2 * 3
    host = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=pinned)
    on_device = torch.empty_like(host, device=bench.device)
    return 1e3 * bench.seconds(lambda: on_device.copy_(host, non_blocking=True))


def crops_ms(bench: Bench, *, channels: int) -> float:
    """Return the time of the kernel that crops, resizes and flips a batch.

    Raises:
        BenchmarkError: the kernel cannot run on this GPU.
    """
    _check_kernels(bench)
    sizes = bench.sizes
    height, width = sizes.image
    num_bytes = height * width * channels
    bytes_X = torch.randint(256, (sizes.batch * num_bytes,), dtype=torch.uint8, device=bench.device)
    (cut,) = random_cut(np.full(sizes.batch, height), np.full(sizes.batch, width), 0, sizes.side)
    offset_V = np.arange(sizes.batch) * num_bytes
    table = CropTable.of(offset_V, np.full(sizes.batch, width), cut)
    fields_VF = torch.from_numpy(table.fields_VF).to(bench.device)
    out_VCSS = torch.empty(sizes.batch, channels, sizes.side, sizes.side, device=bench.device)
    return 1e3 * bench.seconds(
        lambda: crop_resized(bytes_X, table, fields_VF, out_VCSS), at_once=AT_ONCE
    )


def sobel_ms(bench: Bench, *, is_kernel: bool) -> float:
    """Return the time of Sobel's filter on a batch of grey views.

    Args:
        bench: device and sizes.
        is_kernel: whether it is one kernel, as a network does it, or operations of torch.

    Raises:
        BenchmarkError: the kernel cannot run on this GPU.
    """
    if is_kernel:
        _check_kernels(bench)
    sizes = bench.sizes
    views_BCSS = torch.rand(sizes.batch, 1, sizes.side, sizes.side, device=bench.device)
    sobel = Sobel((0.45,) * 3, (0.22,) * 3)
    has_triton = is_kernel and bench.device.type == "cuda"

    def has(_: torch.device) -> bool:  # a mock would take as long as the kernel
        return has_triton

    with mock.patch("deepcluster_core.models.sobel.has_triton", has):
        return 1e3 * bench.seconds(lambda: sobel(views_BCSS), at_once=AT_ONCE)


def step_ms(bench: Bench, *, step: StepName, is_chosen: bool = True) -> float:
    """Return the time of a training step on a batch that is on the device already.

    Args:
        bench: device and sizes.
        step: how the device gets the step.
        is_chosen: whether cuDNN measures which program is fastest, as training does.
    """
    learner = learner_of(bench)
    batch = _batch(bench)
    num_steps = max(10, bench.sizes.steps // 8)
    if not is_chosen:
        learner.network.train()
        take = partial(learner.learn, batch, 0, precision="auto")
        return 1e3 * bench.seconds(take, at_once=AT_ONCE)
    watch = Watch(bench, num_steps)
    train_epoch(learner, repeat(batch, num_steps), precision="auto", after_step=watch, step=step)
    return 1e3 * watch.seconds_each


def compiled_step_ms(bench: Bench) -> float:
    """Return the time of an eager step whose network, head and loss are compiled."""
    learner = learner_of(bench)
    classifier = learner._classifier  # pyright: ignore[reportPrivateUsage]
    classifier.forward = torch.compile(classifier.forward)
    batch = _batch(bench)
    learner.network.train()
    take = partial(learner.learn, batch, 0, precision="auto")
    with steps_of(learner, "auto", "eager"):  # which measures cuDNN's programs
        return 1e3 * bench.seconds(take, warm_up=4, at_once=AT_ONCE)


def conv1_ms(bench: Bench, *, channels: int, kernel: int, side: int, stride: int) -> float:
    """Return the time of the first convolution, forward and backward, in bfloat16."""
    shape = (bench.sizes.batch, channels, side, side)
    maps = bench.random(*shape, dtype=torch.bfloat16)
    maps = maps.contiguous(memory_format=torch.channels_last)
    weight = bench.random(96, channels, kernel, kernel, dtype=torch.bfloat16)
    weight = weight.contiguous(memory_format=torch.channels_last).requires_grad_()

    def work() -> None:
        weight.grad = None
        functional.conv2d(maps, weight, stride=stride).sum().backward()

    return 1e3 * bench.seconds(work, warm_up=4, at_once=AT_ONCE)


def eigh_s(bench: Bench) -> float:
    """Return the time of all eigenvectors of the covariance, in float64."""
    rows_DD = bench.random(bench.sizes.dim, bench.sizes.dim, dtype=torch.float64)
    square_DD = rows_DD @ rows_DD.T
    return bench.seconds(lambda: torch.linalg.eigh(square_DD), warm_up=1)


def lloyd_pass_ms(bench: Bench, *, is_tf32: bool) -> float:
    """Return the time of one pass of k-means over all rows: nearest centroids and their sums."""
    sizes = bench.sizes
    rows_NQ = functional.normalize(bench.random(sizes.rows, sizes.pca_dim))
    centroids_KQ = rows_NQ[: sizes.clusters].clone()
    norm_K = centroids_KQ.square().sum(dim=1) / 2

    def work() -> None:
        sums_KQ = torch.zeros_like(centroids_KQ)
        for block_BQ in rows_NQ.split(16_384):
            cluster_B = (block_BQ @ centroids_KQ.T - norm_K).argmax(dim=1)
            sums_KQ.index_add_(0, cluster_B, block_BQ)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if is_tf32 else "highest")
    try:
        return 1e3 * bench.seconds(work, warm_up=1)
    finally:
        torch.set_float32_matmul_precision(before)


def jpegs_per_s(bench: Bench) -> float:
    """Return the pace of torchvision's JPEG decoder on the device, in colour images of 256 px.

    In one thread: it takes one batch after the other, whoever calls it.
    """
    from PIL import Image  # noqa: PLC0415  not installed everywhere
    from torchvision.io import decode_jpeg  # noqa: PLC0415  not installed everywhere

    height, width = bench.sizes.image
    generator = np.random.default_rng(0)
    coarse = generator.integers(256, size=(height // 8, width // 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    encoded = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    batch = [encoded.clone() for _ in range(bench.sizes.batch)]
    return len(batch) / bench.seconds(lambda: decode_jpeg(batch, device=bench.device))
