"""From images of any source to features, as they come: nothing is packed, nothing is kept.

Suffixes: B images of a batch, S pixels of a view's side, C channels, D values of a feature.
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
from deepcluster_core.features import extract_features
from deepcluster_core.models.network import Network
from deepcluster_core.shortage import is_shortage

READ_AT_ONCE = 32
"""Images that a thread reads before it hands over their views."""

Pixels = NDArray[np.uint8]
View = Callable[[bytes], Pixels]
"""Bytes of a picture -> (S, S, C); raises UnreadableImageError. Called in threads."""
Skip = Callable[[str, str], None]
"""Is told path and reason of an image that cannot be used."""


@dataclass(frozen=True)
class Forward:
    """How the network is applied; as in the run, so that its images give its features.

    To the last digit they do so where all of them come, in the same order: in a batch with others,
    or in a smaller one, the last digits may be others.
    """

    layer: str | None
    batch_size: int
    device: str
    precision: Precision


def features_of(
    network: Network,
    images: Iterable[SourceImage],
    view: View,
    forward: Forward,
    *,
    skip: Skip,
    workers: int,
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield paths and features (B, D) of the readable images, a batch at a time, in order.

    In memory are a batch and some views for each thread, however many images there are.

    Args:
        network: is used up, see `extract_features`.
        images: of a source.
        view: what the network sees of an image.
        forward: how.
        skip: hears of the others.
        workers: threads that read.
    """
    waiting: deque[list[str]] = deque()

    def views() -> Iterator[Pixels]:
        for paths, views_BSSC in _batches(_read(images, view, workers), forward.batch_size, skip):
            waiting.append(paths)
            yield views_BSSC

    for feature_BD in extract_features(
        network,
        views(),
        layer=forward.layer,
        device=forward.device,
        precision=forward.precision,
    ):
        yield waiting.popleft(), feature_BD


@dataclass(frozen=True, slots=True)
class _Read:
    path: str
    view_SSC: Pixels | None
    """None where it cannot be used."""
    reason: str


def _read(images: Iterable[SourceImage], view: View, workers: int) -> Iterator[_Read]:
    """Read ahead in threads; yield in order."""

    def read_one(image: SourceImage) -> _Read:
        try:
            return _Read(image.path, view(image.read()), "")
        except (OSError, UnreadableImageError) as error:
            if is_shortage(error):  # the image may be good
                raise
            return _Read(image.path, None, str(error))

    def read_all(group: list[SourceImage]) -> list[_Read]:
        return [read_one(image) for image in group]

    for group in ordered_map(read_all, _groups(images), workers=workers):
        yield from group


def _groups(images: Iterable[SourceImage]) -> Iterator[list[SourceImage]]:
    coming = iter(images)
    while group := list(islice(coming, READ_AT_ONCE)):
        yield group


def _batches(found: Iterable[_Read], size: int, skip: Skip) -> Iterator[tuple[list[str], Pixels]]:
    """Yield paths and views (B, S, S, C) of readable images; the last batch may be smaller."""
    paths: list[str] = []
    views: list[Pixels] = []
    for image in found:
        if image.view_SSC is None:
            skip(image.path, image.reason)
            continue
        paths.append(image.path)
        views.append(image.view_SSC)
        if len(views) == size:
            yield paths, np.stack(views)
            paths, views = [], []
    if views:
        yield paths, np.stack(views)
