"""Knn: images (+ checkpoint) -> accuracy of classifying images by their nearest neighbours."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.config import Precision, StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.errors import ConfigError
from deepcluster_core.evaluation.knn import Neighbours, nearest, unit_rows, votes
from deepcluster_core.features import features_on_first
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.precision import computed_in
from deepcluster_core.stage import External, stage
from stages.evaluations.declaration import Evaluation, Score
from stages.evaluations.shared.central_views import CentralViews
from stages.evaluations.shared.labelled import Data, open_labelled
from stages.evaluations.shared.networks import ComparedNetworks
from stages.evaluations.shared.progress import ProgressCounter
from stages.evaluations.shared.resize import resize_for
from stages.evaluations.shared.results import RESULTS, Row, write_results


class KnnConfig(StrictConfig):
    """The protocol of weighted nearest neighbours."""

    ks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Numbers of neighbours. Each gives a row, unless there are fewer training images. Wu et al.
    2018 use 200."""

    temperature: PositiveFloat
    """Temperature of the votes, no unit: a neighbour's vote weighs exp(cosine similarity /
    temperature). Wu et al. 2018 use 0.07."""

    layer: str
    """A named layer of the network, averaged over space, e.g. conv5. auto: the feature that the
    paper clusters, which is the last hidden layer before its ReLU. Name the layer here if the run
    clusters another one."""

    resize: PositiveInt | Literal["auto"]
    """Length to which the shorter side is resized before the central crop of network.image_size,
    pixels. auto: 256/224 of that size, as in the paper; for sizes up to 64 px that size itself, so
    that nothing is cut away."""

    validation_fraction: float = Field(gt=0, lt=1)
    """Share of each class, 0 to 1, that is set aside and classified by the rest if no validation
    images are given."""

    batch_size: PositiveInt
    """Images in a forward pass."""

    precision: Precision
    """Number format of the forward pass; similarities are float32."""


@stage(name="knn", version=1, kind="evaluations/knn", files=(RESULTS,), ranks="many")
def knn(
    draft: Draft,
    network: NetworkConfig,
    protocol: KnnConfig,
    /,
    *,
    images: Path,
    validation: Path | None,
    checkpoint: Path | None,
    supervised: External | None,
) -> None:
    """Write a row for each compared network and k, with top1 and chance in percent.

    Args:
        draft: artifact of the evaluation.
        network: the run's architecture.
        protocol: how neighbours are found and how they vote.
        images: the training images; images without a label are ignored.
        validation: images to classify; None: a part of each class of `images`.
        checkpoint: the epoch's checkpoint; None compares no trained network.
        supervised: .safetensors file of weights trained with true labels, to compare with.
    """
    context = draft.context
    data = open_labelled(
        images, validation, validation_fraction=protocol.validation_fraction, seed=context.seed
    )
    # Drop every k that is greater than the number of training images.
    fitting = protocol.model_copy(update={"ks": _fitting(protocol.ks, data)})
    channels = data.training.pictures.channels
    networks = ComparedNetworks(network, channels, context, checkpoint, supervised)
    images_each = len(data.training.class_N) + len(data.validation.class_N)
    views = CentralViews(
        resize_for(network.image_size, protocol.resize, only_centre=True),
        network,
        batch_size=protocol.batch_size,
        context=context,
        counter=ProgressCounter(context, len(networks) * images_each),
    )
    rows: list[Row] = []
    for name, model in networks:
        found = _neighbours(model, data, fitting, views, context)
        if found is not None:
            rows += _rows(name, found, data, fitting)
    # The other ranks have computed features for the first one, which has all results.
    if context.ranks.rank != 0:
        return
    draft.facts |= {
        "classes": len(data.classes),
        "training_images": len(data.training.class_N),
        "validation_images": len(data.validation.class_N),
        "ks_left_out": [k for k in protocol.ks if k not in fitting.ks],
        "precision": computed_in(context.device, protocol.precision),
    }
    write_results(draft, rows, protocol)


def _neighbours(
    network: Network, data: Data, protocol: KnnConfig, views: CentralViews, context: Context
) -> Neighbours | None:
    """Return the training images nearest to each validation image in the features of a network.

    All ranks compute features. The first rank alone compares them; the others return None.

    Memory holds the features of all validation images, 16 kB each for AlexNet, and those of a few
    thousand training images at a time.
    """
    # One stream of features, validation images first: these are the queries, and the training
    # images behind them are compared with the queries batch by batch.
    validation, training = data.validation, data.training
    query_batches = views.plan(validation.pictures, validation.image_id_N)
    training_batches = views.plan(training.pictures, training.image_id_N)
    features = features_on_first(
        network,
        [*query_batches, *training_batches],
        views.load,
        layer=None if protocol.layer == "auto" else protocol.layer,
        context=context,
        precision=protocol.precision,
    )
    # Rows have length one, so that the product of two rows is their cosine similarity.
    rows = _unit_rows(features, views.counter, context.device)
    # A batch never mixes the two parts, so the queries end with a batch.
    queries = list(islice(rows, len(query_batches)))
    if context.ranks.rank != 0:
        # The stream was empty here, so it has been read to its end, and all batches are computed.
        return None
    return nearest(torch.cat(queries), rows, k=max(protocol.ks))


def _unit_rows(
    features: Iterator[NDArray[np.float32]], counter: ProgressCounter, device: str
) -> Iterator[Tensor]:
    """Yield features scaled to length one, on the device; count those that have been used."""
    for feature_BD in features:
        yield unit_rows(feature_BD).to(device)
        counter.advance(len(feature_BD))


def _rows(name: str, found: Neighbours, data: Data, protocol: KnnConfig) -> Iterator[Row]:
    """Yield the row of each k. Chance is the accuracy of always answering the commonest class."""
    truth_M = data.validation.class_N
    commonest = np.bincount(data.training.class_N).argmax()
    chance = _percent(truth_M == commonest)
    predictions = votes(
        found,
        data.training.class_N,
        ks=protocol.ks,
        temperature=protocol.temperature,
        num_classes=len(data.classes),
    )
    for k, predicted_M in predictions:
        top1 = _percent(predicted_M == truth_M)
        yield {"network": name, "k": k, "top1": top1, "chance": chance}


def _percent(is_right_M: NDArray[np.bool_]) -> float:
    return 100 * int(is_right_M.sum()) / len(is_right_M)


def _fitting(ks: tuple[int, ...], data: Data) -> tuple[int, ...]:
    """Return those of `ks` that do not exceed the number of training images.

    Raises:
        ConfigError: every k exceeds it.
    """
    num_training = len(data.training.class_N)
    fitting = tuple(k for k in ks if k <= num_training)
    if not fitting:
        raise ConfigError(
            f"ks: {min(ks)} neighbours are asked for, but there are {num_training} training images "
            f"with a label.\n"
            f"  Fix: --set ks=[1,5], or other numbers up to {num_training}"
        )
    return fitting


EVALUATION = Evaluation(
    knn,
    about="Weighted nearest neighbours; nothing is trained",
    data="labelled",
    score=Score("top1", each="k", named="of {} neighbours"),
)
