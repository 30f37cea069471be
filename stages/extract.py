"""Extract: images (+ checkpoint) -> features. Runs the network in eval mode on central crops."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import FEATURES
from deepcluster_core.artifacts.images import Images
from deepcluster_core.config import FeatureDtype, Precision, StrictConfig
from deepcluster_core.local_paths import usable_path
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.stage import stage


class ExtractConfig(StrictConfig):
    """How features are computed."""

    absent_when_none = frozenset(("from_file",))
    by_contents = frozenset(("from_file",))

    from_file: Path | None = Field(default=None, alias="from")
    """A file with the features of another model, which are clustered in place of the network's, in
    a run with `epochs: 0`: `.npy` with float16 or float32 (N, D) in the order of image_id, or
    `.parquet` with a column `image_id` or `path` and a column `feature` or `embedding` of lists.
    Its contents, not its name, decide about the artifacts. None: features of the network."""

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

    @field_validator("from_file")
    @classmethod
    def _is_readable(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        if path.suffix not in (".npy", ".parquet"):
            raise ValueError("must end in .npy or .parquet")
        return usable_path(path)


@stage(name="extract", version=2, kind="features", files=(FEATURES,), ranks="many")
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
    from deepcluster_core.artifacts.features import create_features, write_shards
    from deepcluster_core.data.central_views import central_views
    from deepcluster_core.feature_shares import FeatureShare
    from deepcluster_core.features import extract_features, feature_dim
    from deepcluster_core.precision import computed_in

    context = draft.context
    pictures = Images(images)
    if extract.from_file is not None:
        _copy_given(draft, extract, extract.from_file, pictures)
        return
    model = restore_network(
        network, channels=pictures.channels, seed=context.seed, checkpoint=checkpoint
    )
    num_images = len(pictures)
    dim = feature_dim(model, extract.layer, size=network.image_size)

    # The ranks write their shards into one array, which has to exist before.
    array = context.ranks.on_first(
        lambda: create_features(draft.folder, num_images=num_images, dim=dim, dtype=extract.dtype),
        "features array",
    )
    # From now on, a later attempt with the same key keeps the shards that it finds in the folder.
    draft.save({})
    share = FeatureShare(array, context.ranks, batch_size=extract.batch_size)
    views = central_views(
        pictures,
        resize=extract.resize,
        size=network.image_size,
        batch_size=extract.batch_size,
        batches=share.batches,
        workers=context.workers,
    )
    features = extract_features(
        model, views, layer=extract.layer, device=context.device, precision=extract.precision
    )
    rows = share.rows_to_write(features, _Report(draft, num_images))
    write_shards(array, share.missing, rows, finished=draft.publish)
    for number in share.shards:
        draft.wrote(array.shard(number))
    draft.rows = num_images
    draft.facts["precision"] = computed_in(context.device, extract.precision)
    draft.facts["dim"] = dim


def _copy_given(draft: Draft, extract: ExtractConfig, path: Path, pictures: Images) -> None:
    """Write the features artifact from the features of another model.

    Raises:
        FeatureError: the file does not hold one feature for each image, or a value is not finite.
    """
    # Imported here because they import zarr, as in `extract`.
    from deepcluster_core.artifacts.features import create_features, write_shards
    from deepcluster_core.feature_shares import FeatureShare
    from deepcluster_core.given_features import open_given

    context = draft.context
    num_images = len(pictures)
    given = open_given(path, pictures.paths(), scratch=context.scratch)
    array = context.ranks.on_first(
        lambda: create_features(
            draft.folder, num_images=num_images, dim=given.dim, dtype=extract.dtype
        ),
        "features array",
    )
    draft.save({})
    size = extract.batch_size
    share = FeatureShare(array, context.ranks, batch_size=size)

    def batches() -> Iterator[NDArray[np.float32]]:
        for number in share.batches:
            yield given.block(number * size, (number + 1) * size)

    rows = share.rows_to_write(batches(), _Report(draft, num_images))
    write_shards(array, share.missing, rows, finished=draft.publish)
    for number in share.shards:
        draft.wrote(array.shard(number))
    draft.rows = num_images
    draft.facts["dim"] = given.dim


class _Report:
    """Reports the progress, and now and then saves the time that this attempt has taken.

    The shards on disk are all that a later attempt needs; only the time would be lost.
    """

    def __init__(self, draft: Draft, num_images: int) -> None:
        self._draft = draft
        self._num_images = num_images
        self._last_save_s = time.monotonic()

    def __call__(self, num_done: int) -> None:
        """Report the number of images that are done."""
        context = self._draft.context
        context.progress(num_done, self._num_images)
        every_s = context.save_every.seconds
        if every_s is not None and time.monotonic() - self._last_save_s > every_s:
            self._draft.save({})
            self._last_save_s = time.monotonic()
