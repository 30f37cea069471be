"""A short run of the pipeline's own stages, without labels and without Prefect."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from stages.cluster import ClusterConfig
from stages.extract import ExtractConfig
from stages.index import DatasetConfig
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.loop import run_epochs
from stages.runs.recipe import Recipe
from stages.runs.report import Report
from stages.runs.run import Run
from stages.train import TrainConfig, train
from tests.margins import SEED

EPOCHS = 8
ONE_PASS: dict[str, Any] = {
    "epochs": 1,
    "learning": TrainConfig(batch_size=64, reassign_every=1, crop_area=(0.1, 0.6)),
}
"""Settings with which a network learns nearly nothing, for tests of what does not depend on it."""
NETWORK = NetworkConfig(name="smallnet", image_size=32, dropout=0.0)
LAST = Context(seed=SEED, epoch=EPOCHS - 1, workers=1)
"""The context of an evaluation of the network that `pretrain` returns by default."""


def pretrain(
    pictures: Path,
    root: Path,
    *,
    network: NetworkConfig = NETWORK,
    dataset: dict[str, Any] | None = None,
    clustering: ClusterConfig | None = None,
    learning: TrainConfig | None = None,
    epochs: int = EPOCHS,
    seed: int = SEED,
) -> Path:
    """Return the checkpoint of the last epoch; the settings are those for `tests.support.voc_tree`.

    Args:
        pictures: folder of images.
        root: an empty folder for all artifacts.
        network: network to train.
        dataset: settings of the dataset that replace those here.
        clustering: number of clusters and the PCA.
        learning: settings of training.
        epochs: number of epochs, at least one.
        seed: seed of everything random.
    """
    settings: dict[str, Any] = {"shorter_side": 60, "channels": 3, "encoding": "raw"}
    recipe = Recipe(
        seed=seed,
        epochs=epochs,
        dataset=DatasetConfig(source=pictures, **settings | (dataset or {})),
        network=network,
        extract=ExtractConfig(resize=40, precision="float32"),
        cluster=clustering or ClusterConfig(k=10, pca_dim=16),
        train=learning or TrainConfig(batch_size=64, reassign_every=4, crop_area=(0.1, 0.6)),
        compute=ComputeConfig(device="cpu", workers=1, save_every_s=None),
    )
    folder = RunFolder(root)
    run_epochs(Run(folder, recipe, Report(folder, epochs=epochs, echo=False)))
    return folder.artifact(train.kind, epochs - 1)


def mean_lead(
    pictures: Path,
    root: Path,
    lead: Callable[..., float],
    *,
    num_networks: int = 3,
    **settings: Any,  # noqa: ANN401  those of `pretrain`
) -> float:
    """Return the lead of pretrained networks over random ones, the mean over networks.

    The score of a single network depends on the last digits of products, and so on the processor.

    Args:
        pictures: folder of images.
        root: an empty folder.
        lead: returns the lead of one network; called with `checkpoint`, `context` and a name `out`.
        num_networks: number of networks, each with a seed of its own.
        settings: settings for `pretrain`.
    """
    leads: list[float] = []
    for number in range(num_networks):
        seed = SEED + 10 * number
        checkpoint = pretrain(pictures, root / str(seed), seed=seed, **settings)
        last = replace(LAST, seed=seed, epoch=settings.get("epochs", EPOCHS) - 1)
        leads.append(lead(checkpoint=checkpoint, context=last, out=f"out-{seed}"))
    return mean(leads)
