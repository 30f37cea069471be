"""The batches of an epoch on pseudo-labels. Suffixes: B batch, K clusters, M draws, N images."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.tables import Labels
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import RandomCrop, augmentation_draws, random_views
from deepcluster_core.training.epoch import Batch
from deepcluster_core.training.sampler import balancing_weights


@dataclass(frozen=True)
class Batches:
    """The batches of an epoch; each depends only on its position in the epoch."""

    pictures: Images
    labels: Labels
    order_M: NDArray[np.int64]
    """The image_id of every position of the epoch."""
    batch_size: int
    """Number of images in a batch; the last batch may have fewer."""
    crop: RandomCrop
    size: int
    """Side of a view in pixels."""
    seed: int
    """Seed of the augmentation."""
    is_weighted: bool
    """Whether an image's loss is weighted by the inverse of its cluster's size."""

    def from_step(self, step: int, *, workers: int) -> Iterator[Batch]:
        """Yield the batches from `step` on, loaded ahead by threads."""
        weight_K = balancing_weights(self.labels.cluster_N, k=self.labels.k)
        starts = range(0, len(self.order_M), self.batch_size)
        load = partial(self._load, weight_K)
        return ordered_map(load, starts[step:], workers=workers)

    def _load(self, weight_K: NDArray[np.float32], start: int) -> Batch:
        end = start + self.batch_size
        ids = self.order_M[start:end]
        # Drawn by position, so that a batch does not depend on the batches before it.
        draws_BR = augmentation_draws(self.seed, start, len(ids))
        images = [self.pictures[image_id] for image_id in ids]
        views_BSSC = random_views(images, draws_BR, self.crop, size=self.size)
        cluster_B = self.labels.cluster_N[ids].astype(np.int64)
        weight_B = weight_K[cluster_B] if self.is_weighted else None
        return Batch(views_BSSC, cluster_B, weight_B)
