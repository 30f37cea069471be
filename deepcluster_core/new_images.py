"""Compute features of the images of any source as a stream, without an image artifact.

Suffixes: B images of a batch, H and W of an image, S side of a view in pixels, C channels, D values
of a feature.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.config import Precision
from deepcluster_core.data.decode import UnreadableImageError
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.sources import SourceImage
from deepcluster_core.data.sources.base import prepared
from deepcluster_core.device_feed.central import CentralCrops
from deepcluster_core.features import ViewBatch, extract_features
from deepcluster_core.models.network import Network
from deepcluster_core.shortage import is_shortage

READ_AT_ONCE = 32
"""Number of images that a thread reads before it returns their views."""

Pixels = NDArray[np.uint8]
View = Callable[[bytes], Pixels]
"""A function, called in threads, that decodes an image file's bytes to a view (S, S, C).

Where a device makes the views, see `Forward.crops`, it returns the whole image (H, W, C). It raises
UnreadableImageError for bytes that it cannot decode.
"""
Skip = Callable[[str, str], None]
"""A callback that receives the path of an unusable image and the reason."""


@dataclass(frozen=True)
class Forward:
    """Settings of the forward pass.

    With the settings of a run, its images give its features. They are equal to the last digit only
    if all images come in the order of the run: in a batch of a different size or with different
    images, the last digits may differ.
    """

    layer: str | None
    batch_size: int
    device: str
    precision: Precision
    crops: CentralCrops | None = None
    """The views that the device makes of whole images; None: it is given views."""


def features_of(
    network: Network,
    images: Iterable[SourceImage],
    view: View,
    forward: Forward,
    *,
    skip: Skip,
    workers: int,
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield paths and features (B, D) of the readable images, batch by batch, in order.

    Memory holds one batch and a few views per thread, regardless of the number of images.

    Args:
        network: modified in place and not reusable afterwards; see `extract_features`.
        images: images of a source.
        view: function that turns a file's bytes into the view that the network sees, or into the
            image that the device makes it of.
        forward: settings of the forward pass.
        skip: called for each image that cannot be used.
        workers: number of threads that read images.
    """
    # The network sees views alone, so the paths wait here until their features come out.
    paths_of_batches: deque[list[str]] = deque()

    def batches() -> Iterator[list[Pixels]]:
        read_images = _read(images, view, workers)
        for paths, pixels in _batches(read_images, forward.batch_size, skip):
            paths_of_batches.append(paths)
            yield pixels

    views: Iterator[ViewBatch] = map(np.stack, batches())
    if forward.crops is not None:
        views = forward.crops.fed(batches(), forward.device)
    for feature_BD in extract_features(
        network,
        views,
        layer=forward.layer,
        device=forward.device,
        precision=forward.precision,
    ):
        yield paths_of_batches.popleft(), feature_BD


@dataclass(frozen=True, slots=True)
class _Read:
    path: str
    pixels_HWC: Pixels | None
    """The view or the image, or None if the image cannot be used."""
    reason: str
    """Why the image cannot be used; empty if it can."""


def _read(images: Iterable[SourceImage], view: View, workers: int) -> Iterator[_Read]:
    """Yield the views of images in order, read ahead by threads."""

    def read_one(image: SourceImage) -> _Read:
        try:
            return _Read(image.path, view(image.read()), "")
        except (OSError, UnreadableImageError) as error:
            if is_shortage(error):  # memory or files ran out; the image itself may be fine
                raise
            return _Read(image.path, None, str(error))

    def read_all(group: list[SourceImage]) -> list[_Read]:
        return [read_one(image) for image in group]

    # In groups, so that images are not handed to the threads one by one.
    for group in ordered_map(read_all, _groups(images), workers=workers):
        yield from group


def _groups(images: Iterable[SourceImage]) -> Iterator[list[SourceImage]]:
    iterator = iter(images)
    while group := list(islice(iterator, READ_AT_ONCE)):
        yield prepared(group)


def _batches(
    found: Iterable[_Read], size: int, skip: Skip
) -> Iterator[tuple[list[str], list[Pixels]]]:
    """Yield paths and pixels of B readable images; the last batch may be smaller."""
    paths: list[str] = []
    pixels: list[Pixels] = []
    for image in found:
        if image.pixels_HWC is None:
            skip(image.path, image.reason)
            continue
        paths.append(image.path)
        pixels.append(image.pixels_HWC)
        if len(pixels) == size:
            yield paths, pixels
            paths = []
            pixels = []
    if pixels:
        yield paths, pixels
