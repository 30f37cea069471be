"""Our side: a run as in a flow, but without Prefect, which `benchmarks.overhead` measures.

Each stage opens its inputs on disk, and its artifact is committed; only the state of an unfinished
training is not saved. Epoch 1 is measured, because the first one reads no checkpoint.
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
from benchmarks.measures import neighbour_accuracy
from benchmarks.synthetic import random_blocks, write_index, write_random_features
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.file_names import COLOURS
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
from deepcluster_core.training.heads import Fresh
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
"""Number of the epoch that is measured."""
LONG_ENOUGH = 20
"""Number of batches that suffice to measure a stage's pace apart from its start."""
BATCHES_HELD = 4
"""Number of batches that `steps_in_memory` uses in turns."""


class Clock:
    """The progress of a stage: the times at which it had finished numbers of images."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int | None) -> None:
        """Record the time of a progress report."""
        self.ticks.append((time.perf_counter(), done))

    def images_per_s(self, *, first: int, last: int = 0) -> float:
        """Return the pace without the first and the last ticks, which are not typical."""
        start_s, done_before = self.ticks[first]
        end_s, done_after = self.ticks[-1 - last]
        return (done_after - done_before) / (end_s - start_s)


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
        # The state of an unfinished training is not saved, unless the overrides ask for it.
        compute = {"save_every_s": None, **overrides.get("compute", {})}
        loaded = load_recipe(Path(recipe), {**overrides, "compute": compute})
        folder = RunFolder(Path(run))
        super().__init__(folder, loaded, Clocks(folder, epochs=loaded.epochs))
        self.workers = num_cores()
        self.figures: Figures = {}
        """Seconds of each stage and, on a GPU, the peak of its memory."""

    def execute(self, job: Job, key: str, body: Callable[[], str], *, done: bool) -> bool:
        """Call the body, and record its time."""
        name = job.stage.name
        on_gpu = self.device.startswith("cuda")
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
        labels = self.folder.artifact(cluster.kind, MEASURED - 1)
        checkpoint = self.folder.artifact(train.kind, MEASURED - 1)
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
    # Any checkpoint will do as an input of epoch 1, so that a few images suffice for it.
    short_train = {**overrides.get("train", {}), "reassign_every": 16 / packed.rows}
    short = Pipeline(recipe, {**overrides, "train": short_train}, run)
    short.make(train, 0, images=images, labels=labels, checkpoint=None)
    # Without the copies in colour, which no stage of an epoch reads.
    read = (one.bytes for name, one in packed.files.items() if not name.startswith(COLOURS))
    return {"index_s": packed.seconds, "packed_bytes": sum(read)}


def epoch(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run one whole epoch."""
    pipeline = Pipeline(recipe, overrides, run)
    start = time.perf_counter()
    pipeline.make_epoch(MEASURED, pipeline.images, pipeline.before)
    seconds = time.perf_counter() - start
    pipeline.clear()
    figures = {"seconds": seconds, **pipeline.figures}
    # The first tenth of the batches is left out of the pace: it includes the start of the stage.
    for name, clock in pipeline.report.of_stage.items():
        num_ticks = len(clock.ticks)
        if num_ticks >= LONG_ENOUGH:
            figures[f"{name}_images_per_s"] = clock.images_per_s(first=num_ticks // 10)
    return {**figures, "threads": torch.get_num_threads()}


def extraction(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run the extract stage."""
    pipeline = Pipeline(recipe, overrides, run)
    checkpoint = pipeline.before.checkpoint
    pipeline.make(extract, MEASURED, images=pipeline.images, checkpoint=checkpoint)
    pipeline.clear()
    return {"seconds": pipeline.figures["extract_s"]}


def training(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run the train stage, on the labels of the epoch before."""
    pipeline = _trained(recipe, overrides, run)
    return {"seconds": pipeline.figures["train_s"]}


def loaded_steps(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Run the train stage; return its pace while images are loaded at the same time."""
    pipeline = _trained(recipe, overrides, run)
    return _pace(pipeline)


def _trained(recipe: str, overrides: dict[str, Any], run: str) -> Pipeline:
    """Run the train stage on the labels of the epoch before, and delete its artifact."""
    pipeline = Pipeline(recipe, overrides, run)
    labels, checkpoint = pipeline.before.labels, pipeline.before.checkpoint
    assert labels is not None
    pipeline.make(train, MEASURED, images=pipeline.images, labels=labels, checkpoint=checkpoint)
    pipeline.clear()
    return pipeline


def steps_in_memory(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Train an equal network for equally many steps on a few batches in memory."""
    pipeline = Pipeline(recipe, overrides, run)
    settings = pipeline.recipe.train
    images = Images(pipeline.images)
    labels_folder = pipeline.before.labels
    assert labels_folder is not None
    labels = read_labels(labels_folder)
    pace = Pace.of(settings, num_images=len(images))

    # The first images, in batches; with few images, they repeat.
    size = pipeline.recipe.network.image_size
    order_M = np.arange(BATCHES_HELD * pace.batch_size) % len(images)
    batches: list[Batch] = []
    for ids_B in order_M.reshape(BATCHES_HELD, -1):
        views = [center_view(images[int(i)], resize=256, size=size) for i in ids_B]
        target_B = labels.cluster_N[ids_B].astype(np.int64)
        batches.append(Batch((np.stack(views),), (1,), target_B[None], None, ids_B))

    network = build_network(pipeline.recipe.network, channels=images.channels, seed=0)
    sgd = Sgd(settings.lr, settings.momentum, settings.weight_decay)
    learner = PseudoLabelLearner(
        network,
        head=Fresh.drawn(network.output_dim, labels.k, seed=0),
        sgd=sgd,
        device=pipeline.device,
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
    settings = pipeline.recipe.train
    size = pipeline.recipe.network.image_size
    images = Images(pipeline.images)
    pace = Pace.of(settings, num_images=len(images))
    crop = RandomCrop(area=settings.crop_area, ratio=settings.crop_ratio, flip=settings.flip)
    num_drawn = pace.steps * pace.batch_size
    order_M = np.random.default_rng(0).integers(len(images), size=num_drawn)

    def load(start: int) -> int:
        ids_B = order_M[start : start + pace.batch_size]
        draws_BR = augmentation_draws(0, start, len(ids_B))
        pixels = [images[i] for i in ids_B]
        return len(random_views(pixels, draws_BR, crop, size=size))

    clock = Clock()
    pipeline.report.of_stage["train"] = clock
    num_loaded = 0
    starts = range(0, num_drawn, pace.batch_size)
    for num_views in ordered_map(load, starts, workers=pipeline.workers):
        num_loaded += num_views
        clock(num_loaded, None)
    return _pace(pipeline)


def _pace(pipeline: Pipeline) -> Figures:
    """Return the pace of the steps during which as much is loaded as is used up.

    The first steps use batches that were loaded ahead, and during the last ones nothing is loaded.
    """
    num_batches_ahead = 2 * pipeline.workers + 1
    clock = pipeline.report.of_stage["train"]
    start_s, _ = clock.ticks[0]
    end_s, _ = clock.ticks[-1]
    pace = clock.images_per_s(first=num_batches_ahead, last=num_batches_ahead)
    return {"seconds": end_s - start_s, "images_per_s": pace}


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
    # The features of the trained network, which the next epoch would cluster.
    images, epochs = pipeline.images, pipeline.recipe.epochs
    checkpoint = pipeline.folder.artifact(train.kind, epochs - 1)
    features = pipeline.make(extract, epochs, images=images, checkpoint=checkpoint)
    features_ND = np.concatenate(list(Features(features).blocks()))
    truth_N = Images(images).true_labels()
    assert truth_N is not None
    metrics = read_metrics(pipeline.folder.artifact("metrics", epochs - 1))
    return {
        "seconds": seconds,
        "nmi_labels": metrics["nmi_labels"],
        "neighbours": neighbour_accuracy(features_ND, truth_N),
        "loss": metrics["loss"],
    }


def devices() -> Figures:
    """Count the CUDA devices."""
    return {"devices": torch.cuda.device_count()}


def write_random_run(run: str, count: int, dim: int) -> None:
    """Write the inputs of the cluster stage: random features, and an index of as many images."""
    folder = RunFolder(Path(run))
    write_index(folder.artifact("images", None), count=count)
    write_random_features(folder.artifact("features", 0), count=count, dim=dim, device=_device())


def clustering(run: str, k: int) -> Figures:
    """Run the cluster stage on features on disk."""
    folder = RunFolder(Path(run))
    device = _device()
    start = time.perf_counter()
    cluster.run(
        cluster=ClusterConfig(k=k),
        images=folder.artifact("images", None),
        features=folder.artifact("features", 0),
        out=folder.artifact("labels", 0),
        context=Context(seed=0, epoch=0, device=device, workers=num_cores()),
    )
    seconds = time.perf_counter() - start
    # The next turn starts again without the artifact.
    shutil.rmtree(folder.artifact("labels", 0))
    device_bytes = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"seconds": seconds, "device_bytes": device_bytes}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
