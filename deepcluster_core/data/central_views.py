"""Load batches of central crops for computing features. Suffixes: B batch, S side, C channels."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import center_view


def central_views(
    pictures: Images, context: Context, *, resize: int, size: int, batch_size: int, first: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the central crops (B, S, S, C) of all images from batch `first` on, in order.

    Args:
        pictures: the images, whose checksums are verified.
        context: number of workers and progress callback.
        resize: length of the shorter side before the crop, in pixels.
        size: side of the crop in pixels.
        batch_size: images in a batch; the last one may have fewer.
        first: number of the first batch.
    """
    total = len(pictures)

    def load(start: int) -> NDArray[np.uint8]:
        views: list[NDArray[np.uint8]] = []
        for image_id in range(start, min(start + batch_size, total)):
            image_HWC = pictures.verified(image_id)
            views.append(center_view(image_HWC, resize=resize, size=size))
        return np.stack(views)

    starts = range(first * batch_size, total, batch_size)
    # Closed, so that an error ends the threads at once.
    with closing(ordered_map(load, starts, workers=context.workers)) as batches:
        for start, views_BSSC in zip(starts, batches, strict=True):
            yield views_BSSC
            # Reported once the caller has used the batch.
            context.progress(start + len(views_BSSC), total)
