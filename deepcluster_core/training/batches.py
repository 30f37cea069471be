"""The batches of an epoch on pseudo-labels. Suffixes: B images of a batch that this rank has."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core import seeding
from deepcluster_core.artifacts.images import Images
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import RandomCrop, augmentation_draws, random_views
from deepcluster_core.ranks import Ranks, own_rows
from deepcluster_core.training.epoch import Batch
from deepcluster_core.training.plan import Cuts, Plan
from deepcluster_core.training.rank_layers import Share


@dataclass(frozen=True)
class Kind:
    """Views of one size."""

    count: int
    size: int
    """Side in pixels."""
    crop: RandomCrop


@dataclass(frozen=True)
class Batches:
    """The batches of an epoch; each depends only on its position in the epoch."""

    pictures: Images
    plan: Plan
    cuts: Cuts
    """The positions in the epoch of each batch of all ranks."""
    kinds: tuple[Kind, ...]
    """The kinds of views of each image."""
    seed: int
    """Seed of the augmentation."""
    is_weighted: bool
    """Whether an image's loss is weighted by the inverse of its cluster's size."""
    ranks: Ranks
    """The ranks, each of which loads its part of every batch only."""

    def from_step(self, step: int, *, workers: int) -> Iterator[Batch]:
        """Yield the batches from `step` on, loaded ahead by threads."""
        return ordered_map(self._load, range(step, self.cuts.num_steps), workers=workers)

    def _load(self, step: int) -> Batch:
        places = self.cuts.rows(step)
        rows = own_rows(len(places), self.ranks, unit=1)
        first = places.start + rows.start
        ids_B = self.plan.order_M[first : first + len(rows)].astype(np.int64)
        cluster_HB = self.plan.cluster_HN[:, ids_B].astype(np.int64)
        return Batch(
            views=self._views(ids_B, first),
            num_views=tuple(kind.count for kind in self.kinds),
            cluster_HB=cluster_HB,
            weight_B=self.plan.weight_K[cluster_HB[0]] if self.is_weighted else None,
            image_id_B=ids_B,
            share=None if self.ranks.size == 1 else Share(rows, len(places)),
        )

    def _views(self, ids_B: NDArray[np.int64], first: int) -> tuple[NDArray[np.uint8], ...]:
        images = [self.pictures[image_id] for image_id in ids_B]
        views: list[NDArray[np.uint8]] = []
        number = 0
        for kind in self.kinds:
            of_kind: list[NDArray[np.uint8]] = []
            for _ in range(kind.count):
                seed = self.seed if number == 0 else seeding.derive(self.seed, number)
                number += 1
                if len(ids_B) == 0:  # a last batch with fewer images than ranks
                    shape = (0, kind.size, kind.size, self.pictures.channels)
                    of_kind.append(np.empty(shape, np.uint8))
                    continue
                # Drawn by position, so that a view does not depend on the batches before it.
                draws_BR = augmentation_draws(seed, first, len(ids_B))
                of_kind.append(random_views(images, draws_BR, kind.crop, size=kind.size))
            views.append(np.concatenate(of_kind) if len(of_kind) > 1 else of_kind[0])
        return tuple(views)
