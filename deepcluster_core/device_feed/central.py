"""Feed the central crops of images. Suffixes: B images of a batch, S side, C channels."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.data.views import center_boxes
from deepcluster_core.device_feed.feed import Cut, Feed, Request
from deepcluster_core.models.config import NetworkConfig


def fed_central_views(
    pictures: Images,
    network: NetworkConfig,
    *,
    resize: int,
    batch_size: int,
    batches: Sequence[int],
    context: Context,
    id_S: NDArray[np.int64] | None = None,
) -> Iterator[Tensor]:
    """Yield on the device what `central_views` yields in main memory, as (B, C, S, S) from 0 to 1.

    Args:
        pictures: the images, whose checksums are verified.
        network: what reads the views, of `image_size` pixels.
        resize: length of the shorter side before the crop, in pixels.
        batch_size: images in a batch; the last one of all images may have fewer.
        batches: numbers of the batches, as in `central_views`.
        context: device and number of threads.
        id_S: image_ids of a sample, as in `central_views`; None for all images.
    """
    total = len(pictures) if id_S is None else len(id_S)
    size = network.image_size

    def cut(height_B: NDArray[np.int64], width_B: NDArray[np.int64]) -> list[Cut]:
        box_B4 = center_boxes(height_B, width_B, resize=resize, size=size)
        return [Cut(box_B4, np.zeros(len(box_B4), np.bool_), size)]

    def request(number: int) -> Request:
        start = number * batch_size
        positions_B = np.arange(start, min(start + batch_size, total))
        return Request(positions_B if id_S is None else id_S[positions_B], (1,), cut)

    feed = Feed.of(pictures, network, context, is_verified=True)
    for batch in feed.batches(map(request, batches), workers=context.workers):
        yield batch.views[0]
