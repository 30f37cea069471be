"""The batches of an epoch on pseudo-labels.

Suffixes: B images of a batch that this rank has, H clusterings.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import Images
from deepcluster_core.data.augment import Views
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.device_feed.crops import Cut
from deepcluster_core.device_feed.feed import Feed, Request
from deepcluster_core.ranks import Ranks, own_rows
from deepcluster_core.training.epoch import OTHERS, Batch
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
    feed: Feed | None = None
    """Makes the views on the device; None: threads make them in main memory."""

    def from_step(self, step: int, *, workers: int) -> Iterator[Batch]:
        """Yield the batches from `step` on, loaded ahead by threads.

        A feed makes crops and flips alone, so that threads make views with other augmentations.
        """
        steps = range(step, self.cuts.num_steps)
        if self.feed is not None and self.views.are_only_crops:
            return self._fed(self.feed, steps, workers)
        return ordered_map(self._load, steps, workers=workers)

    def _load(self, step: int) -> Batch:
        part, first = self._describe(step)
        ids_B = part.image_id_B
        # Read once for all views. In a last batch with fewer images than ranks, this can be none.
        images = [self.pictures[image_id] for image_id in ids_B]
        # Drawn by position, so that a view does not depend on the batches before it.
        return replace(
            part, views=self.views.of_images(images, first, self.pictures.packed_channels)
        )

    def _describe(self, step: int) -> tuple[Batch, int]:
        """Return this rank's part of a batch, without views, and its first image's position."""
        positions = self.cuts.rows(step)
        rows = own_rows(len(positions), self.ranks, unit=1)
        first = positions.start + rows.start
        ids_B = self.plan.order_M[first : first + len(rows)].astype(np.int64)
        cluster_HB = self.plan.cluster_HN[:, ids_B].astype(np.int64)
        part = Batch(
            views=(),
            num_views=self.views.num_views,
            cluster_HB=cluster_HB,
            weight_B=self.plan.weight_K[cluster_HB[0]] if self.is_weighted else None,
            image_id_B=ids_B,
            share=None if self.ranks.size == 1 else Share(rows, len(positions)),
            **self.plan.second_of(ids_B),
        )
        return part, first

    def _fed(self, feed: Feed, steps: range, workers: int) -> Iterator[Batch]:
        """Yield batches whose tensors are on the device."""
        parts: deque[Batch] = deque()

        def requests() -> Iterator[Request]:
            for step in steps:
                part, first = self._describe(step)
                parts.append(part)
                yield self._request(part, first)

        for fed in feed.batches(requests(), workers=workers):
            part = parts.popleft()
            on_device = dict(zip(_extras(part), fed.extras, strict=True))
            yield replace(part, views=fed.views, **on_device)

    def _request(self, part: Batch, first: int) -> Request:
        def cut(height_B: NDArray[np.int64], width_B: NDArray[np.int64]) -> list[Cut]:
            boxes = self.views.boxes(height_B, width_B, first)
            return [
                Cut(box_V4, flipped_V, kind.size)
                for kind, (box_V4, flipped_V) in zip(self.views.kinds, boxes, strict=True)
            ]

        return Request(part.image_id_B, part.num_views, cut, tuple(_extras(part).values()))


def _extras(part: Batch) -> dict[str, NDArray[Any]]:
    """Return the arrays that go to the device beside the views, by their names in the batch."""
    values = {name: getattr(part, name) for name in ("cluster_HB", *OTHERS)}
    return {name: value for name, value in values.items() if value is not None}
