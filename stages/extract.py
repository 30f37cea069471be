"""Extract: images (+ checkpoint) -> features. Runs the network in eval mode on central crops."""

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
    """Pixels of the shorter side before the central crop of `network.image_size`."""

    layer: str | None = None
    """A named layer of the network, such as conv5, averaged over space. None: the paper's feature,
    which is the last hidden layer before its ReLU."""

    batch_size: PositiveInt = 256
    """Number of images in a forward pass."""

    dtype: FeatureDtype = "float16"
    """Number format of the features on disk. float16 takes half the space of float32 and changes
    the clusters far less than another seed of k-means does. On the demo, the NMI between clusters
    from float16 and from float32 is 0.92 at epoch 0 and 0.98 at epoch 9; between two seeds it is
    0.68 and 0.82. The NMI with the true labels changes by up to 0.002 with the format, and by up to
    0.015 with the seed."""

    precision: Precision = "auto"
    """Number format of the forward pass."""


@stage(name="extract", version=1, kind="features", files=(FEATURES,), ranks="many")
def extract(
    draft: Draft,
    extract: ExtractConfig,
    network: NetworkConfig,
    /,
    *,
    images: Path,
    checkpoint: Path | None,
) -> None:
    """Write the features artifact. Without a checkpoint, use the network as initialised."""
    # Imported here because they import torch and zarr, which reading a recipe does not need.
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
    # Rows that an interrupted attempt has written to disk are not computed again.
    num_done = durable_rows(draft.folder, draft.saved.facts["rows"]) if draft.saved else 0
    # Every attempt forms the same batches: go on with the batch that holds the first missing row,
    # and drop the rows of that batch which are already on disk.
    first_batch = num_done // extract.batch_size
    num_repeated = num_done - first_batch * extract.batch_size
    views = central_views(
        pictures,
        context,
        resize=extract.resize,
        size=network.image_size,
        batch_size=extract.batch_size,
        first=first_batch,
    )
    features = extract_features(
        model, views, layer=extract.layer, device=context.device, precision=extract.precision
    )
    draft.rows = len(pictures)
    draft.facts["precision"] = computed_in(context.device, extract.precision)
    draft.facts["dim"] = write_features(
        draft.folder,
        _skip_rows(features, num_repeated),
        num_images=len(pictures),
        dtype=extract.dtype,
        start=num_done,
        saved=lambda rows: draft.save({"rows": rows}),
    )


def _skip_rows(
    batches: Iterator[NDArray[np.float32]], num_rows: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the batches without their first `num_rows` rows, which all lie in the first batch."""
    yield next(batches)[num_rows:]
    yield from batches
