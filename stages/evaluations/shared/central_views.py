"""Batches of central crops, as networks read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import Images
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import center_view
from stages.evaluations.shared.progress import ProgressCounter

Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""The image_ids, (B,), and the views, (B, S, S, C), of a batch."""


@dataclass(frozen=True)
class CentralViews:
    """Central views of images. Making a batch advances the progress counter."""

    resize: int
    """Length to which the shorter side is resized before the crop, pixels."""
    size: int
    """Side of the square crop, pixels."""
    batch_size: int
    workers: int
    counter: ProgressCounter

    def view(self, images: Images, image_id: int) -> NDArray[np.uint8]:
        """Return the view of an image that a network reads, (S, S, C)."""
        return center_view(images.verified(image_id), resize=self.resize, size=self.size)

    def batches(self, images: Images, ids: Sequence[int] | NDArray[np.int64]) -> Iterator[Batch]:
        """Yield the image_ids and the views, (B, S, S, C), of each batch, in the order of `ids`."""

        def load(start: int) -> Batch:
            ids_B = np.asarray(ids[start : start + self.batch_size], np.int64)
            views = [self.view(images, image_id) for image_id in ids_B.tolist()]
            return ids_B, np.stack(views)

        # Workers load whole batches in parallel; they are yielded in order.
        starts = range(0, len(ids), self.batch_size)
        for ids_B, views_BSSC in ordered_map(load, starts, workers=self.workers):
            yield ids_B, views_BSSC
            self.counter.advance(len(ids_B))
