"""Feed the central crops of images. Suffixes: B images of a batch, S side, C channels."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.data.views import center_boxes
from deepcluster_core.device_feed.crops import Cut
from deepcluster_core.device_feed.feed import Feed, Request, format_read_by
from deepcluster_core.device_feed.source import GivenImages, Pixels
from deepcluster_core.models.config import NetworkConfig

COPIERS = 2
"""Threads that copy images which others have read; each takes some batches ahead into memory."""


@dataclass(frozen=True)
class CentralCrops:
    """The central crops of a network, and the images that they are taken from."""

    network: NetworkConfig
    """What reads the views, of `image_size` pixels."""
    channels: int
    """C of the images."""
    resize: int
    """Length of the shorter side before the crop, in pixels."""

    def fed(self, batches: Iterable[Sequence[Pixels]], device: str) -> Iterator[Tensor]:
        """Yield on a device the views (B, C, S, S), from 0 to 1, of batches of images (H, W, C)."""
        given = GivenImages()
        feed = Feed(
            given,
            channels=self.channels,
            device=device,
            memory_format=format_read_by(self.network),
        )
        size = self.network.image_size
        requests = (
            central_request(given.give(images), resize=self.resize, size=size) for images in batches
        )
        for batch in feed.batches(requests, workers=COPIERS):
            yield batch.views[0]


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

    def request(number: int) -> Request:
        start = number * batch_size
        positions_B = np.arange(start, min(start + batch_size, total))
        id_B = positions_B if id_S is None else id_S[positions_B]
        return central_request(id_B, resize=resize, size=network.image_size)

    feed = Feed.of(pictures, network, context, is_verified=True)
    for batch in feed.batches(map(request, batches), workers=context.workers):
        yield batch.views[0]


def central_request(id_B: NDArray[np.int64], *, resize: int, size: int) -> Request:
    """Return the request for the view of each image that `center_view` makes."""
    return Request(id_B, (1,), partial(_central_cut, resize=resize, size=size))


def _central_cut(
    height_B: NDArray[np.int64], width_B: NDArray[np.int64], *, resize: int, size: int
) -> list[Cut]:
    box_B4 = center_boxes(height_B, width_B, resize=resize, size=size)
    return [Cut(box_B4, np.zeros(len(box_B4), np.bool_), size)]
