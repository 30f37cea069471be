"""A short run of the pipeline's own stages, without labels and without Prefect."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from stages.cluster import ClusterConfig, cluster
from stages.extract import ExtractConfig, extract
from stages.index import DatasetConfig, index
from stages.train import TrainConfig, train
from tests.margins import SEED

EPOCHS = 8
NETWORK = NetworkConfig(name="smallnet", image_size=32, dropout=0.0)
LAST = Context(seed=SEED, epoch=EPOCHS - 1, workers=1)
"""Of what evaluates the network that is trained here."""
SEEDS = [SEED + 10 * number for number in range(3)]
"""Of networks whose mean is compared with that of random ones: that of a single one is decided by
the last digits of a product, and so by the processor."""


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
    """Return the checkpoint of the last epoch; the settings are those for `tests.voc_tree`.

    Args:
        pictures: folder of images.
        root: an empty folder for all artifacts.
        network: what is trained.
        dataset: settings of it, over those here.
        clustering: k and the PCA.
        learning: of an epoch.
        epochs: one at least.
        seed: of everything random.
    """
    settings: dict[str, Any] = {"shorter_side": 60, "channels": 3, "encoding": "raw"}
    source = DatasetConfig(source=pictures, **settings | (dataset or {}))
    fingerprint = source.open_source().fingerprint()
    index.run(dataset=source, source=fingerprint, out=root / "images", context=Context(seed=seed))
    checkpoint: Path | None = None
    for epoch in range(epochs):
        context = Context(seed=seed, epoch=epoch, workers=1)
        shared: dict[str, Any] = {"images": root / "images", "context": context}
        features, labels = root / f"features-{epoch}", root / f"labels-{epoch}"
        extract.run(
            extract=ExtractConfig(resize=40, precision="float32"),
            network=network,
            checkpoint=checkpoint,
            out=features,
            **shared,
        )
        cluster.run(
            cluster=clustering or ClusterConfig(k=10, pca_dim=16),
            features=features,
            out=labels,
            **shared,
        )
        out = root / f"checkpoint-{epoch}"
        train.run(
            train=learning or TrainConfig(batch_size=64, reassign_every=4, crop_area=(0.1, 0.6)),
            network=network,
            labels=labels,
            checkpoint=checkpoint,
            out=out,
            **shared,
        )
        checkpoint = out
    assert checkpoint is not None
    return checkpoint


def mean_lead(pictures: Path, root: Path, lead: Callable[..., float], **settings: Any) -> float:  # noqa: ANN401  those of `pretrain`
    """Return by how much pretrained networks are better than random ones, the mean over `SEEDS`.

    Args:
        pictures: folder of images.
        root: an empty folder.
        lead: of one; is given `checkpoint`, `context` and a name `out`.
        settings: for `pretrain`.
    """
    leads: list[float] = []
    for seed in SEEDS:
        checkpoint = pretrain(pictures, root / str(seed), seed=seed, **settings)
        last = replace(LAST, seed=seed, epoch=settings.get("epochs", EPOCHS) - 1)
        leads.append(lead(checkpoint=checkpoint, context=last, out=f"out-{seed}"))
    return mean(leads)
