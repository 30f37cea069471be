"""The sides of `benchmarks.parity`: DeepCluster-v2 by our pipeline, and by a plain loop."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.held_out import read_tasks
from benchmarks.measures import held_out_neighbour_accuracy
from benchmarks.ours import Pipeline
from benchmarks.plain_v2 import Colour, Kind, PlainV2, Settings
from benchmarks.quality_sides import features_of
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.tables import read_metrics
from stages.runs.epoch import Before
from stages.runs.recipe import Recipe, load_recipe
from stages.score import score
from stages.train import train

Figures = dict[str, float]


def plain(recipe: str, overrides: dict[str, Any]) -> Figures:
    """Train by the plain loop, on the packed images of `overrides["images"]`."""
    loaded = load_recipe(Path(recipe), overrides)
    assert loaded.images is not None
    packed = Images(loaded.images)
    pictures = [Image.fromarray(packed[i]) for i in range(len(packed))]
    run = PlainV2(pictures, settings_of(loaded))
    losses: list[float] = []
    start = time.perf_counter()
    run.fill_bank()  # as our first epoch extracts
    for _ in range(loaded.epochs):
        losses.append(run.train_epoch())
    seconds = time.perf_counter() - start
    return _figures(losses, seconds, run.features(), loaded.images)


def ours(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Train by the stages of our pipeline."""
    pipeline = Pipeline(recipe, overrides, run)
    losses: list[float] = []
    before = Before()
    start = time.perf_counter()
    for epoch in range(pipeline.recipe.epochs):
        before = pipeline.make_epoch(epoch, pipeline.images, before)
        pipeline.finish_epoch(epoch)
        losses.append(float(read_metrics(pipeline.folder.artifact(score.kind, epoch))["loss"]))
    seconds = time.perf_counter() - start
    checkpoint = pipeline.folder.artifact(train.kind, pipeline.recipe.epochs - 1)
    features_ND = features_of(pipeline, checkpoint, layer=None)
    shutil.rmtree(run)
    return _figures(losses, seconds, features_ND, pipeline.images)


def settings_of(recipe: Recipe) -> Settings:
    """Return the settings of a recipe for the plain loop, which supports some of them only."""
    train, network, sizes = recipe.train, recipe.network, recipe.cluster.k
    assert train.views is not None
    assert train.prototypes is not None
    assert network.projection is not None
    colour = None
    if train.colour is not None:
        colour = Colour(**train.colour.model_dump())
    ks: Any = sizes if isinstance(sizes, list | tuple) else [sizes]
    return Settings(
        network=network.name,
        image_size=network.image_size,
        resize=recipe.extract.resize,
        hidden=network.projection.hidden,
        dim=network.projection.dim,
        views=[Kind(view.count, view.size, view.area) for view in train.views],
        crop_ratio=train.crop_ratio,
        flip=train.flip,
        colour=colour,
        k=[int(k) for k in ks],
        iterations=recipe.cluster.iterations,
        temperature=train.prototypes.temperature,
        batch_size=int(train.batch_size),
        lr=train.lr,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        epochs=recipe.epochs,
        seed=recipe.seed,
    )


def _figures(
    losses: list[float], seconds: float, features_ND: NDArray[np.float32], images: Path
) -> Figures:
    figures = {
        "seconds": seconds,
        "epoch_s": seconds / len(losses),
        "loss": losses[-1],
        **{f"loss_{epoch}": loss for epoch, loss in enumerate(losses)},
    }
    for name, task in read_tasks(images).items():
        accuracy = held_out_neighbour_accuracy(features_ND, task.truth_N, task.held_out_N)
        figures[f"neighbours_{name}"] = accuracy
    return figures
