"""The batches of an epoch on pseudo-labels.

Suffixes: B images of a batch that this rank has, H clusterings.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deepcluster_core.artifacts.images import Images
from deepcluster_core.data.augment import Views
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.ranks import Ranks, own_rows
from deepcluster_core.training.epoch import Batch
from deepcluster_core.training.plan import Cuts, Plan
from deepcluster_core.training.rank_layers import Share


@dataclass(frozen=True)
class Batches:
    """The batches of an epoch; each depends only on its position in the epoch."""

    pictures: Images
    plan: Plan
    cuts: Cuts
    """Where the epoch is cut into batches, of all ranks together."""
    views: Views
    """The random views of each image."""
    is_weighted: bool
    """Whether an image's loss is weighted by the inverse of its cluster's size."""
    ranks: Ranks
    """The ranks, each of which loads its part of every batch only."""

    def from_step(self, step: int, *, workers: int) -> Iterator[Batch]:
        """Yield the batches from `step` on, loaded ahead by threads."""
        return ordered_map(self._load, range(step, self.cuts.num_steps), workers=workers)

    def _load(self, step: int) -> Batch:
        positions = self.cuts.rows(step)
        rows = own_rows(len(positions), self.ranks, unit=1)
        first = positions.start + rows.start
        ids_B = self.plan.order_M[first : first + len(rows)].astype(np.int64)
        cluster_HB = self.plan.cluster_HN[:, ids_B].astype(np.int64)
        # Read once for all views. In a last batch with fewer images than ranks, this can be none.
        images = [self.pictures[image_id] for image_id in ids_B]
        return Batch(
            # Drawn by position, so that a view does not depend on the batches before it.
            views=self.views.of_images(images, first, self.pictures.packed_channels),
            num_views=self.views.num_views,
            cluster_HB=cluster_HB,
            weight_B=self.plan.weight_K[cluster_HB[0]] if self.is_weighted else None,
            image_id_B=ids_B,
            share=None if self.ranks.size == 1 else Share(rows, len(positions)),
        )
