"""Batches of central crops, as networks read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import center_view
from deepcluster_core.device_feed.central import central_request
from deepcluster_core.device_feed.feed import Feed
from deepcluster_core.features import ViewBatch
from deepcluster_core.models.config import NetworkConfig
from stages.evaluations.shared.progress import ProgressCounter

Batch = tuple[NDArray[np.int64], ViewBatch]
"""The image_ids, (B,), and the views of a batch."""
PlannedBatch = tuple[Images, NDArray[np.int64]]
"""The images that a batch is taken from, and the image_ids in it, (B,)."""


@dataclass(frozen=True)
class CentralViews:
    """Central views of images, and the progress counter of the evaluation that uses them."""

    resize: int
    """Length to which the shorter side is resized before the crop, pixels."""
    network: NetworkConfig
    """What reads the views."""
    batch_size: int
    context: Context
    """Where the views are made, and by how many threads."""
    counter: ProgressCounter

    @property
    def size(self) -> int:
        """Side of the square crop, pixels."""
        return self.network.image_size

    def view(self, images: Images, image_id: int) -> NDArray[np.uint8]:
        """Return the view of an image that a network reads, (S, S, C)."""
        return center_view(images.verified(image_id), resize=self.resize, size=self.size)

    def plan(self, images: Images, ids: Sequence[int] | NDArray[np.int64]) -> list[PlannedBatch]:
        """Divide images into batches, in the order of `ids`, without loading them."""
        planned: list[PlannedBatch] = []
        for start in range(0, len(ids), self.batch_size):
            ids_B = np.asarray(ids[start : start + self.batch_size], np.int64)
            planned.append((images, ids_B))
        return planned

    def load(self, batches: Sequence[PlannedBatch]) -> Iterator[ViewBatch]:
        """Yield the views of planned batches, in order.

        They are (B, S, S, C) of uint8, or (B, C, S, S) from 0 to 1 where a device is fed.
        """
        # A feed reads one artifact; batches from two of them come one artifact after the other.
        for images, of_images in groupby(batches, key=itemgetter(0)):
            batch_ids = [ids_B for _, ids_B in of_images]
            if self.context.is_fed_on_device(images.shorter_side):
                yield from self._fed(images, batch_ids)
            else:
                yield from self._loaded(images, batch_ids)

    def _loaded(
        self, images: Images, batch_ids: Sequence[NDArray[np.int64]]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the views of batches of images, made in main memory."""

        def load_one(ids_B: NDArray[np.int64]) -> NDArray[np.uint8]:
            return np.stack([self.view(images, image_id) for image_id in ids_B.tolist()])

        # Workers load whole batches in parallel.
        yield from ordered_map(load_one, batch_ids, workers=self.context.workers)

    def _fed(self, images: Images, batch_ids: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        """Yield the views of batches of images, made on the device."""
        feed = Feed.of(images, self.network, self.context, is_verified=True)
        requests = (
            central_request(ids_B, resize=self.resize, size=self.size) for ids_B in batch_ids
        )
        for fed in feed.batches(requests, workers=self.context.workers):
            yield fed.views[0]

    def batches(self, images: Images, ids: Sequence[int] | NDArray[np.int64]) -> Iterator[Batch]:
        """Yield the image_ids and the views of each batch, in the order of `ids`.

        Each batch advances the progress counter once it has been used.
        """
        planned = self.plan(images, ids)
        for (_, ids_B), views_BSSC in zip(planned, self.load(planned), strict=True):
            yield ids_B, views_BSSC
            self.counter.advance(len(ids_B))
