"""Load batches of central crops for computing features. Suffixes: B batch, S side, C channels.

`id_S` are the image_ids of a sample.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.artifacts.images import Images
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import center_view


def central_views(
    pictures: Images,
    *,
    resize: int,
    size: int,
    batch_size: int,
    batches: Sequence[int],
    workers: int,
    id_S: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the central crops (B, S, S, C) of some batches of the images, in order.

    Args:
        pictures: the images, whose checksums are verified.
        resize: length of the shorter side before the crop, in pixels.
        size: side of the crop in pixels.
        batch_size: images in a batch; the last one of all images may have fewer.
        batches: numbers of the batches. Batch b has the images from b · `batch_size` on, whichever
            other batches are wanted.
        workers: number of threads that load batches.
        id_S: image_ids of the images to use, in this order; batches count them. None: all images.
    """
    total = len(pictures) if id_S is None else len(id_S)

    def load(number: int) -> NDArray[np.uint8]:
        start = number * batch_size
        views: list[NDArray[np.uint8]] = []
        for position in range(start, min(start + batch_size, total)):
            image_id = position if id_S is None else int(id_S[position])
            image_HWC = pictures.verified(image_id)
            views.append(center_view(image_HWC, resize=resize, size=size))
        return np.stack(views)

    # Closed, so that an error ends the threads at once.
    with closing(ordered_map(load, batches, workers=workers)) as loaded:
        yield from loaded
