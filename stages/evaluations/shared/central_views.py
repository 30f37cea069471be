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
PlannedBatch = tuple[Images, NDArray[np.int64]]
"""The images that a batch is taken from, and the image_ids in it, (B,)."""


@dataclass(frozen=True)
class CentralViews:
    """Central views of images, and the progress counter of the evaluation that uses them."""

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

    def plan(self, images: Images, ids: Sequence[int] | NDArray[np.int64]) -> list[PlannedBatch]:
        """Divide images into batches, in the order of `ids`, without loading them."""
        planned: list[PlannedBatch] = []
        for start in range(0, len(ids), self.batch_size):
            ids_B = np.asarray(ids[start : start + self.batch_size], np.int64)
            planned.append((images, ids_B))
        return planned

    def load(self, batches: Sequence[PlannedBatch]) -> Iterator[NDArray[np.uint8]]:
        """Yield the views of planned batches, (B, S, S, C), in order."""

        def load_one(batch: PlannedBatch) -> NDArray[np.uint8]:
            images, ids_B = batch
            return np.stack([self.view(images, image_id) for image_id in ids_B.tolist()])

        # Workers load whole batches in parallel.
        yield from ordered_map(load_one, batches, workers=self.workers)

    def batches(self, images: Images, ids: Sequence[int] | NDArray[np.int64]) -> Iterator[Batch]:
        """Yield the image_ids and the views of each batch, in the order of `ids`.

        Each batch advances the progress counter once it has been used.
        """
        planned = self.plan(images, ids)
        for (_, ids_B), views_BSSC in zip(planned, self.load(planned), strict=True):
            yield ids_B, views_BSSC
            self.counter.advance(len(ids_B))
