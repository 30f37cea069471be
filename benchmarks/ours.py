"""Our side: a run as in a flow, but without Prefect, which `benchmarks.overhead` measures.

Each stage opens its inputs on disk, and its artifact is committed; only the state of a training
that goes on is not saved. Epoch 1 is measured, because the first one reads no checkpoint.
"""

# ruff: noqa: E402  the environment is prepared before torch is imported, as in every run
from flows.engine import environment

environment.prepare()

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import num_cores
from benchmarks.quality import neighbour_accuracy
from benchmarks.synthetic import random_blocks, write_index, write_random_features
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_labels, read_metrics
from deepcluster_core.clustering.pca import fit_pca
from deepcluster_core.context import Context
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import RandomCrop, augmentation_draws, center_view, random_views
from deepcluster_core.memory import keep_freed_memory
from deepcluster_core.models.build import build_network
from deepcluster_core.progress import Progress
from deepcluster_core.training.epoch import Batch, PseudoLabelLearner, train_epoch
from deepcluster_core.training.learner import Sgd
from stages.cluster import ClusterConfig, cluster
from stages.extract import extract
from stages.index import index
from stages.runs.epoch import EPOCH_KINDS, Before
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.loop import run_epochs
from stages.runs.recipe import load_recipe
from stages.runs.report import Report
from stages.runs.run import Run
from stages.train import Pace, train

Figures = dict[str, float]
MEASURED = 1
LONG_ENOUGH = 20
"""Number of batches that suffice to measure a stage's pace apart from its start."""
BATCHES_HELD = 4


class Clock:
    """The progress of a stage: the times at which it had finished numbers of images."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int | None) -> None:
        """Record the time of a progress report."""
        self.ticks.append((time.perf_counter(), done))

    def images_per_s(self, *, first: int, last: int = 0) -> float:
        """Return the pace without the first and the last ticks, which are not typical."""
        (start, before), (end, after) = self.ticks[first], self.ticks[-1 - last]
        return (after - before) / (end - start)


class Clocks(Report):
    """A silent reporter that records the progress of each stage."""

    def __init__(self, folder: RunFolder, *, epochs: int) -> None:
        super().__init__(folder, epochs=epochs, echo=False)
        self.of_stage: dict[str, Clock] = {}

    @contextmanager
    def progress(self, job: Job) -> Iterator[Progress]:
        """Start a new clock for a stage."""
        clock = self.of_stage[job.stage.name] = Clock()
        yield clock


class Pipeline(Run[Clocks]):
    """A run whose stages are timed."""

    def __init__(self, recipe: str, overrides: Mapping[str, Any], run: str) -> None:
        keep_freed_memory()  # as the command line does
        compute = {"save_every_s": None, **overrides.get("compute", {})}
        loaded = load_recipe(Path(recipe), {**overrides, "compute": compute})
        folder = RunFolder(Path(run))
        super().__init__(folder, loaded, Clocks(folder, epochs=loaded.epochs))
        self.workers = num_cores()
        self.figures: Figures = {}
        """Seconds of each stage and, on a GPU, the peak of its memory."""

    def execute(self, job: Job, key: str, body: Callable[[], str], *, done: bool) -> bool:
        """Call the body, and record its time."""
        name, on_gpu = job.stage.name, self.device.startswith("cuda")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        cached = super().execute(job, key, body, done=done)
        self.figures[f"{name}_s"] = time.perf_counter() - start
        if on_gpu:
            self.figures[f"{name}_device_bytes"] = torch.cuda.max_memory_allocated()
        return cached

    @property
    def before(self) -> Before:
        """The artifacts that the measured epoch takes over from the epoch before."""
        labels, checkpoint = (self.folder.artifact(s.kind, MEASURED - 1) for s in (cluster, train))
        return Before(labels, checkpoint)

    def clear(self) -> None:
        """Delete the artifacts of the measured epoch."""
        for kind in EPOCH_KINDS:
            shutil.rmtree(self.folder.artifact(kind, MEASURED), ignore_errors=True)


def prepare(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Pack the images, and make the inputs of epoch 1: labels and a barely trained checkpoint."""
    pipeline = Pipeline(recipe, overrides, run)
    images = pipeline.make(index, None, source=pipeline.source_fingerprint)
    packed = read_manifest(images)
    features = pipeline.make(extract, 0, images=images, checkpoint=None)
    labels = pipeline.make(cluster, 0, images=images, features=features)
    train_few = {**overrides.get("train", {}), "reassign_every": 16 / packed.rows}
    short = Pipeline(recipe, {**overrides, "train": train_few}, run)
    short.make(train, 0, images=images, labels=labels, checkpoint=None)
    return {"index_s": packed.seconds, "packed_bytes": packed.bytes}


def epoch(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run one whole epoch."""
    pipeline = Pipeline(recipe, overrides, run)
    start = time.perf_counter()
    pipeline.make_epoch(MEASURED, pipeline.images, pipeline.before)
    seconds = time.perf_counter() - start
    pipeline.clear()
    paces = {
        f"{name}_images_per_s": clock.images_per_s(first=len(clock.ticks) // 10)
        for name, clock in pipeline.report.of_stage.items()
        if len(clock.ticks) >= LONG_ENOUGH
    }
    return {"seconds": seconds, **pipeline.figures, **paces, "threads": torch.get_num_threads()}


def extraction(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run the extract stage."""
    pipeline = Pipeline(recipe, overrides, run)
    checkpoint = pipeline.before.checkpoint
    pipeline.make(extract, MEASURED, images=pipeline.images, checkpoint=checkpoint)
    pipeline.clear()
    return {"seconds": pipeline.figures["extract_s"]}


def training(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run the train stage, on the labels of the epoch before."""
    pipeline = Pipeline(recipe, overrides, run)
    labels, checkpoint = pipeline.before.labels, pipeline.before.checkpoint
    assert labels is not None
    pipeline.make(train, MEASURED, images=pipeline.images, labels=labels, checkpoint=checkpoint)
    pipeline.clear()
    return {"seconds": pipeline.figures["train_s"]}


def loaded_steps(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run the train stage; return its pace while images are loaded at the same time."""
    pipeline = Pipeline(recipe, overrides, run)
    labels, checkpoint = pipeline.before.labels, pipeline.before.checkpoint
    assert labels is not None
    pipeline.make(train, MEASURED, images=pipeline.images, labels=labels, checkpoint=checkpoint)
    pipeline.clear()
    return _pace(pipeline)


def steps_in_memory(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Train an equal network for equally many steps on a few batches in memory."""
    pipeline = Pipeline(recipe, overrides, run)
    settings, labels = pipeline.recipe.train, pipeline.before.labels
    assert labels is not None
    pictures, assigned = Images(pipeline.images), read_labels(labels)
    pace = Pace.of(settings, num_images=len(pictures))
    size = pipeline.recipe.network.image_size
    batches = [
        Batch(
            np.stack([center_view(pictures[int(i)], resize=256, size=size) for i in ids]),
            assigned.cluster_N[ids].astype(np.int64),
            None,
        )
        for ids in np.arange(BATCHES_HELD * pace.batch_size).reshape(BATCHES_HELD, -1)
        % len(pictures)
    ]
    network = build_network(pipeline.recipe.network, channels=pictures.channels, seed=0)
    sgd = Sgd(settings.lr, settings.momentum, settings.weight_decay)
    learner = PseudoLabelLearner(
        network,
        k=assigned.k,
        sgd=sgd,
        device=pipeline.device,
        head_seed=0,
        dropout_seed=0,
    )
    clock = pipeline.report.of_stage["train"] = Clock()
    train_epoch(
        learner,
        islice(cycle(batches), pace.steps),
        precision=settings.precision,
        after_step=lambda progress: clock(progress.seen, None),
    )
    return _pace(pipeline)


def loading_alone(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Load batches as the train stage does, on all cores, without using them."""
    pipeline = Pipeline(recipe, overrides, run)
    settings, size = pipeline.recipe.train, pipeline.recipe.network.image_size
    pictures = Images(pipeline.images)
    pace = Pace.of(settings, num_images=len(pictures))
    crop = RandomCrop(area=settings.crop_area, ratio=settings.crop_ratio, flip=settings.flip)
    order_M = np.random.default_rng(0).integers(len(pictures), size=pace.steps * pace.batch_size)

    def load(start: int) -> int:
        ids = order_M[start : start + pace.batch_size]
        draws_BR = augmentation_draws(0, start, len(ids))
        return len(random_views([pictures[i] for i in ids], draws_BR, crop, size=size))

    clock, done = Clock(), 0
    pipeline.report.of_stage["train"] = clock
    starts = range(0, len(order_M), pace.batch_size)
    for count in ordered_map(load, starts, workers=pipeline.workers):
        done += count
        clock(done, None)
    return _pace(pipeline)


def _pace(pipeline: Pipeline) -> Figures:
    """Return the pace of the steps during which as much is loaded as is used up.

    At first batches are there that were loaded before, in the end none is loaded any more.
    """
    ahead = 2 * pipeline.workers + 1
    clock = pipeline.report.of_stage["train"]
    ends = (clock.ticks[0][0], clock.ticks[-1][0])
    return {
        "seconds": ends[1] - ends[0],
        "images_per_s": clock.images_per_s(first=ahead, last=ahead),
    }


def reduction(count: int, dim: int, to: int) -> Figures:
    """Reduce features in memory, block by block as the cluster stage does."""
    blocks = list(random_blocks(count, dim))
    start = time.perf_counter()
    pca = fit_pca(blocks, dim=to)
    for block_BD in blocks:
        pca.whiten(block_BD)
    return {"seconds": time.perf_counter() - start}


def learning(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run all epochs; return how well the last clusters and features agree with true labels."""
    pipeline = Pipeline(recipe, overrides, run)
    start = time.perf_counter()
    run_epochs(pipeline)
    seconds = time.perf_counter() - start
    # What an epoch more would cluster: the features of the trained network.
    images, epochs = pipeline.images, pipeline.recipe.epochs
    checkpoint = pipeline.folder.artifact(train.kind, epochs - 1)
    features = pipeline.make(extract, epochs, images=images, checkpoint=checkpoint)
    features_ND = np.concatenate(list(Features(features).blocks()))
    truth_N = Images(images).true_labels()
    assert truth_N is not None
    found = read_metrics(pipeline.folder.artifact("metrics", epochs - 1))
    return {
        "seconds": seconds,
        "nmi_labels": found["nmi_labels"],
        "neighbours": neighbour_accuracy(features_ND, truth_N),
        "loss": found["loss"],
    }


def devices() -> Figures:
    """Count the CUDA devices."""
    return {"devices": torch.cuda.device_count()}


def write_random_run(run: str, count: int, dim: int) -> None:
    """Write the inputs of the cluster stage: random features, and an index of as many images."""
    folder = RunFolder(Path(run))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    write_index(folder.artifact("images", None), count=count)
    write_random_features(folder.artifact("features", 0), count=count, dim=dim, device=device)


def clustering(run: str, k: int) -> Figures:
    """Run the cluster stage on features on disk."""
    folder = RunFolder(Path(run))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = time.perf_counter()
    cluster.run(
        cluster=ClusterConfig(k=k),
        images=folder.artifact("images", None),
        features=folder.artifact("features", 0),
        out=folder.artifact("labels", 0),
        context=Context(seed=0, epoch=0, device=device, workers=num_cores()),
    )
    seconds = time.perf_counter() - start
    shutil.rmtree(folder.artifact("labels", 0))
    held = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"seconds": seconds, "device_bytes": held}
