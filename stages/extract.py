"""Extract: images (+ checkpoint) -> features. The network in eval mode over the central crops."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import FEATURES
from deepcluster_core.artifacts.images import Images
from deepcluster_core.config import FeatureDtype, Precision, StrictConfig
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.stage import stage


class ExtractConfig(StrictConfig):
    """How features are computed."""

    resize: PositiveInt = 256
    """Pixels of the shorter side before the central crop of network.image_size."""

    layer: str | None = None
    """A named layer of the network, averaged over space, e.g. conv5. None: the paper's feature,
    the last hidden layer before its ReLU."""

    batch_size: PositiveInt = 256
    """Images in a forward pass."""

    dtype: FeatureDtype = "float16"
    """Of the features on disk. float16 takes half the space and moves clusters far less than the
    seed of k-means does: on the demo, the NMI of clusters from float16 with those from float32 is
    0.92 at epoch 0 and 0.98 at epoch 9, of two seeds 0.68 and 0.82; the NMI with the true labels
    moves by up to 0.002, with the seed by up to 0.015."""

    precision: Precision = "auto"
    """Number format of the forward pass."""


@stage(name="extract", version=1, kind="features", files=(FEATURES,))
def extract(
    draft: Draft,
    extract: ExtractConfig,
    network: NetworkConfig,
    /,
    *,
    images: Path,
    checkpoint: Path | None,
) -> None:
    """Write the features artifact. Without a checkpoint the network is as initialised."""
    # They import torch and zarr, which a recipe is read without.
    from deepcluster_core.artifacts.checkpoints import restore_network
    from deepcluster_core.artifacts.features import durable_rows, write_features
    from deepcluster_core.data.central_views import central_views
    from deepcluster_core.features import extract_features
    from deepcluster_core.precision import computed_in

    context = draft.context
    pictures = Images(images)
    model = restore_network(
        network, channels=pictures.channels, seed=context.seed, checkpoint=checkpoint
    )
    done = durable_rows(draft.folder, draft.saved.facts["rows"]) if draft.saved else 0
    first = done // extract.batch_size  # batches are the same in every attempt
    views = central_views(
        pictures,
        context,
        resize=extract.resize,
        size=network.image_size,
        batch_size=extract.batch_size,
        first=first,
    )
    features = extract_features(
        model,
        views,
        layer=extract.layer,
        device=context.device,
        precision=extract.precision,
    )
    draft.rows = len(pictures)
    draft.facts["precision"] = computed_in(context.device, extract.precision)
    draft.facts["dim"] = write_features(
        draft.folder,
        _without(features, done - first * extract.batch_size),
        num_images=len(pictures),
        dtype=extract.dtype,
        start=done,
        saved=lambda rows: draft.save({"rows": rows}),
    )


def _without(
    batches: Iterator[NDArray[np.float32]], num_rows: int
) -> Iterator[NDArray[np.float32]]:
    """Yield batches of rows without the first rows, which all lie in the first batch."""
    yield next(batches)[num_rows:]
    yield from batches
