"""One pass of a network over images, which writes their features.

Suffixes: S images of a sample, B images of a batch, D values of a feature, Q components.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from deepcluster_core.artifacts.features import Features
    from deepcluster_core.clustering.pca import Pca
    from deepcluster_core.models.network import Network
    from stages.extract import ExtractConfig

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class FeaturePass:
    """What is needed to compute features of images."""

    model: "Network"
    """It can be used for one call of `write`."""
    pictures: Images
    extract: "ExtractConfig"
    network: NetworkConfig
    dim: int
    """D."""
    draft: Draft

    def write(
        self,
        array: "Features",
        progress: Progress,
        *,
        pca: "Pca | None" = None,
        id_S: Ids | None = None,
    ) -> list[Path]:
        """Compute features and write them; return the shards that this rank answers for.

        Args:
            array: where to write them. Shards that are whole already stay as they are.
            progress: receives the number of images that are done.
            pca: reduces the features; None to write them as they are.
            id_S: the images, one for each row of the array; None for all images.
        """
        from deepcluster_core.artifacts.features import write_shards
        from deepcluster_core.feature_shares import FeatureShare
        from deepcluster_core.features import extract_features

        extract, context = self.extract, self.draft.context
        is_fed = context.is_fed_on_device(self.pictures.shorter_side)
        share = FeatureShare(array, context.ranks, batch_size=extract.batch_size)
        views = _views(self.pictures, self.network, extract, share.batches, context, id_S)
        # Narrowed where they are computed, if that is not the CPU, which writes them.
        features = extract_features(
            self.model,
            views,
            layer=extract.layer,
            device=context.device,
            precision=extract.precision,
            dtype=extract.dtype if is_fed else "float32",
            project=None if pca is None else pca.to(context.device).components_of,
        )
        report = ImageReport(self.draft, array.num_images, progress)
        rows = share.rows_to_write(features, report)
        # Features of a sample lie in a folder that is deleted in the end.
        is_kept = array.path.parent == self.draft.folder
        first = share.first_rows()
        with self.pictures.fetched_ahead(first if id_S is None else id_S[first].tolist()):
            write_shards(
                array, share.missing, rows, finished=self.draft.publish if is_kept else None
            )
        return [array.shard(number) for number in share.shards]


def _views(
    pictures: Images,
    network: NetworkConfig,
    extract: "ExtractConfig",
    batches: Sequence[int],
    context: Context,
    id_S: Ids | None,
) -> "Iterator[NDArray[np.uint8]] | Iterator[Tensor]":
    """Return the central crops of some batches, made where the context says."""
    # Imported here because they import torch, as in `extract`.
    from deepcluster_core.data.central_views import central_views
    from deepcluster_core.device_feed.central import fed_central_views

    if context.is_fed_on_device(pictures.shorter_side):
        return fed_central_views(
            pictures,
            network,
            resize=extract.resize,
            batch_size=extract.batch_size,
            batches=batches,
            context=context,
            id_S=id_S,
        )
    return central_views(
        pictures,
        resize=extract.resize,
        size=network.image_size,
        batch_size=extract.batch_size,
        batches=batches,
        workers=context.workers,
        id_S=id_S,
    )


class ImageReport:
    """Reports the progress, and now and then saves the time that this attempt has taken.

    The shards on disk are all that a later attempt needs; only the time would be lost.
    """

    def __init__(self, draft: Draft, num_images: int, progress: Progress) -> None:
        self._draft = draft
        self._num_images = num_images
        self._progress = progress
        self._last_save_s = time.monotonic()

    def __call__(self, num_done: int) -> None:
        """Report the number of images that are done."""
        self._progress(num_done, self._num_images)
        every_s = self._draft.context.save_every.seconds
        if every_s is not None and time.monotonic() - self._last_save_s > every_s:
            self._draft.save({})
            self._last_save_s = time.monotonic()
