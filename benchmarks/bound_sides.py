"""The sides of `benchmarks.bound`: a network at work on batches in memory, beside products."""

# ruff: noqa: E402  the environment is prepared before torch is imported, as in every run
from flows.engine import environment

environment.prepare()

import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from deepcluster_core.config import Precision
from deepcluster_core.features import extract_features
from deepcluster_core.memory import keep_freed_memory
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.precision import exact_float32
from deepcluster_core.training.epoch import Batch, PseudoLabelLearner, train_epoch
from deepcluster_core.training.heads import Fresh
from deepcluster_core.training.learner import Sgd

keep_freed_memory()  # as the command line does

Figures = dict[str, float]
CLUSTERS = 100
BATCHES_HELD = 3
"""Number of batches that are used in turns, so that none stays in a core's cache."""
SIDE = 2048
"""Rows and columns of the multiplied matrices."""
SLICE_S = 0.5
"""Seconds after which products and the network take turns."""


def extraction(
    network: dict[str, Any], batch_size: int, precision: Precision, seconds_at_least: float
) -> Figures:
    """Extract features of batches in memory, in turns with products."""
    model = build_network(NetworkConfig(**network), channels=3, seed=0).eval()
    views = _views(network["image_size"], batch_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.feature(torch.from_numpy(views[0]).permute(0, 3, 1, 2))
    flop_per_image = counter.get_total_flops() / batch_size
    features = extract_features(model, cycle(views), layer=None, device="cpu", precision=precision)

    def work(num_batches: int) -> None:
        for _ in islice(features, num_batches):
            pass

    return _in_turns(work, batch_size, flop_per_image, seconds_at_least)


def training(
    network: dict[str, Any], batch_size: int, precision: Precision, seconds_at_least: float
) -> Figures:
    """Train on batches in memory, in turns with products."""
    model = build_network(NetworkConfig(**network), channels=3, seed=0)
    head = Fresh.drawn(model.output_dim, CLUSTERS, seed=0)
    views = _views(network["image_size"], batch_size)
    # Before the learner lets convolutions choose algorithms with fewer multiplications.
    with FlopCounterMode(display=False) as counter:
        (logits_BK,) = head.classify(model(torch.from_numpy(views[0]).permute(0, 3, 1, 2)))
        logits_BK.sum().backward()
    flop_per_image = counter.get_total_flops() / batch_size
    model.zero_grad()
    head.zero_grad()
    learner = PseudoLabelLearner(
        model,
        head=head,
        sgd=Sgd(lr=0.05, momentum=0.9, weight_decay=1e-5),
        device="cpu",
        dropout_seed=0,
    )
    ids_B = np.arange(batch_size)
    cluster_HB = ids_B[None] % CLUSTERS
    batches = [Batch((views_BSSC,), (1,), cluster_HB, None, ids_B) for views_BSSC in views]

    def train(some: Iterable[Batch]) -> None:
        train_epoch(learner, some, precision=precision, after_step=lambda _: None)

    def work(num_batches: int) -> None:
        train(islice(cycle(batches), num_batches))

    return _in_turns(work, batch_size, flop_per_image, seconds_at_least)


def _views(size: int, batch_size: int) -> list[NDArray[np.uint8]]:
    shape = (batch_size, size, size, 3)
    random = np.random.default_rng(0)
    return [random.integers(256, size=shape, dtype=np.uint8) for _ in range(BATCHES_HELD)]


def _in_turns(
    work: Callable[[int], None], batch_size: int, flop_per_image: float, seconds_at_least: float
) -> Figures:
    """Return the median paces of the network and of products that take turns.

    Args:
        work: has the network process a number of batches.
        batch_size: images in a batch.
        flop_per_image: floating-point operations of convolutions and linear layers for an image.
        seconds_at_least: duration, without the first batches.
    """
    matrix = torch.ones(SIDE, SIDE)

    def multiply(times: int) -> None:
        with exact_float32():
            for _ in range(times):
                torch.mm(matrix, matrix)

    work(3)
    multiply(3)
    num_batches, num_products = _in_a_slice(work), _in_a_slice(multiply)
    network_s: list[float] = []
    products_s: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds_at_least or len(network_s) < 3:
        products_s.append(_seconds(multiply, num_products))
        network_s.append(_seconds(work, num_batches))
    images_per_s = num_batches * batch_size / median(network_s)
    product_flop_per_s = num_products * 2 * SIDE**3 / median(products_s)
    return {
        "images_per_s": images_per_s,
        "bound_images_per_s": product_flop_per_s / flop_per_image,
        "share": images_per_s * flop_per_image / product_flop_per_s,
        "product_gflop_per_s": product_flop_per_s / 1e9,
        "gflop_per_image": flop_per_image / 1e9,
        "threads": torch.get_num_threads(),
    }


def _in_a_slice(work: Callable[[int], None]) -> int:
    """Return how many repetitions take about the time of a slice."""
    return max(1, int(SLICE_S / _seconds(work, 1)))


def _seconds(work: Callable[[int], None], times: int) -> float:
    start = time.perf_counter()
    work(times)
    return time.perf_counter() - start
