"""Measure the values of a data set before it is decoded, and choose how they become 8 bits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.deep_scales import (
    Deep,
    DeepScales,
    Measurement,
    kind_of,
    sample,
)
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.pages import Pages
from deepcluster_core.data.picture_values import channel_values, is_deep_file
from deepcluster_core.data.sources.base import SourceImage, prepared
from deepcluster_core.data.unreadable import UnreadableImageError
from deepcluster_core.errors import DeepClusterError, StoreError
from deepcluster_core.shortage import is_shortage

PROBED = 32
"""Number of images, the first ones, that decide about the default."""
MEASURED = 1000
"""Number of images, spread over all, whose values are measured, beside the probed ones.

Our choice: a percentile of 0.1 then rests on thousands of values, and decoding them takes minutes
even if each has 100 megapixels.
"""


def default_deep(images: Iterable[SourceImage]) -> Deep:
    """Return `percentile` if one of the first images has more than 8 bits, otherwise `range`.

    A source that cannot be listed has no deep images; the error is raised where it is indexed.

    Raises:
        SourceError: the source is on a store that is not available, and may be again by then.
    """
    try:
        is_deep = any(_is_deep(image) for image in islice(images, PROBED))
    except DeepClusterError as error:
        if isinstance(error.__cause__, StoreError):
            raise
        return "range"
    return "percentile" if is_deep else "range"


def _is_deep(image: SourceImage) -> bool:
    try:
        return is_deep_file(image.read())
    except (OSError, UnreadableImageError) as error:
        if is_shortage(error):
            raise
        return False  # the index records the reason


@dataclass(frozen=True)
class _Reading:
    """How images are read: settings of the data set."""

    channels: int
    pages: Pages | None

    def sample(self, image: SourceImage) -> tuple[str, NDArray[np.float32]] | None:
        """Return kind and values of an image; None if it has 8 bits or cannot be read."""
        try:
            found = channel_values(image.read(), self.channels, self.pages)
            if found is None or not found.is_deep:
                return None
            return kind_of(found.values_HWC), sample(found.values_HWC, found.shown)
        except (OSError, UnreadableImageError, MemoryError) as error:
            if is_shortage(error):
                raise
            return None  # the index records it


def measure(
    images: Callable[[], Iterator[SourceImage]],
    total: int | None,
    *,
    channels: int,
    pages: Pages | None,
    workers: int,
) -> DeepScales:
    """Return the scales of a data set, by values of some of its images.

    The result depends on the images alone, not on the number of workers.

    Args:
        images: returns the images in the order of the source; may be called twice.
        total: number of images; None if they have to be counted first.
        channels: number of channels that the images are to have.
        pages: which pages of a stack are read.
        workers: number of threads.
    """
    if total is None:
        total = sum(1 for _ in images())
    chosen = _spread(images(), total)
    measurement = Measurement()
    reading = _Reading(channels, pages)
    for found in ordered_map(partial(_Reading.sample, reading), chosen, workers=workers):
        if found is not None:
            measurement.add(*found)
    return measurement.scales()


def _spread(images: Iterator[SourceImage], total: int) -> Iterator[SourceImage]:
    """Yield the probed images, and about `MEASURED` others at regular distances."""
    step = -(-total // MEASURED)
    for number, image in enumerate(images):
        if number < PROBED or number % step == 0:
            prepared([image])
            yield image
