"""Search a database of photographs with parts of photographs, by a network's descriptors.

Suffixes: N images of the database, Q queries, R regions, D filters or values of a descriptor.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.clustering.pca import Pca
from deepcluster_core.data.decode import UnreadableImageError
from deepcluster_core.data.resize import Pixels
from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.retrieval.average_precision import trapezoid_average_precision
from deepcluster_core.evaluation.retrieval.landmarks import Query
from deepcluster_core.evaluation.retrieval.photographs import Album
from deepcluster_core.evaluation.retrieval.rmac import (
    RegionReader,
    TooSmallError,
    descriptor,
    fit_whitening,
)


@dataclass(frozen=True)
class Task:
    """The database, the queries, and the images to learn the whitening from."""

    base: Album
    """The database. Images that cannot be read are left out."""
    queries: Sequence[Query]
    """Queries by numbers of `base`. The image of a query stays in the database."""
    learn_on: Album
    """Images from which the whitening is learnt."""

    @property
    def steps(self) -> int:
        """Number of images that `search` reads."""
        return len(self.learn_on) + len(self.queries) + len(self.base)

    def part(self, query: Query) -> Pixels:
        """Return the part of an image that a query shows, cut out of the resized image.

        Raises:
            SourceError: the image cannot be read.
        """
        try:
            return self.base.read(query.image).part(query.box)
        except UnreadableImageError as error:
            raise self.refused(query, f"its image cannot be read: {error}") from error

    def refused(self, query: Query, why: str) -> SourceError:
        """Return the error for a query that cannot be used."""
        name = self.base.names[query.image]
        path = str(self.base.root / name)
        return SourceError(
            f"query {query.name!r}, a part of {path!r}: {why}.\n"
            f"  Fix: put a whole image in its place, or leave the query out of the ground truth."
        )


@dataclass(frozen=True)
class Found:
    """The rankings of a network and their average precision."""

    ranked_QN: NDArray[np.int64]
    """Numbers of the usable images in the database, best first."""
    precision_Q: tuple[float, ...]
    """Average precision of each query, 0 to 1."""
    left_out: dict[int, str]
    """Images of the database that cannot be used, each with the reason."""
    dims: int
    """Number of values of a descriptor."""


def search(
    reader: RegionReader,
    task: Task,
    *,
    dims: int,
    floor: float,
    workers: int,
    stepped: Callable[[], None],
) -> Found:
    """Rank the database for every query, by the dot product of descriptors.

    Memory holds a few images, and all descriptors: 2 kB per image for 512 dims.

    Args:
        reader: reads the regions of images with a network.
        task: the database and the queries.
        dims: see `fit_whitening`.
        floor: see `fit_whitening`.
        workers: number of threads that read images.
        stepped: called after each image.

    Raises:
        SourceError: a query's image, or every image that it should find, cannot be used.
        FeatureError: the features are not finite, or all are equal.
    """
    # Images that cannot be read are left out of the whitening, too, but not reported.
    learnt_on = _regions(reader, task.learn_on, {}, workers=workers, stepped=stepped)
    regions = (regions_RD for _, regions_RD in learnt_on)
    whitening = fit_whitening(regions, dims=dims, floor=floor)

    # The queries come before the database, so that one that cannot be used is reported early.
    queries = [_described(reader, task, query, whitening, stepped) for query in task.queries]
    left_out: dict[int, str] = {}
    numbers: list[int] = []
    descriptors: list[Tensor] = []
    base = _regions(reader, task.base, left_out, workers=workers, stepped=stepped)
    with closing(base):  # so that an error ends the threads that read at once
        for number, regions_RD in base:
            numbers.append(number)
            descriptors.append(descriptor(regions_RD, whitening).cpu())

    # The sort is stable: of equally similar images, the first in the database ranks first.
    similarity_QN = torch.stack(queries) @ torch.stack(descriptors).T
    order_QN = similarity_QN.argsort(dim=1, descending=True, stable=True)
    ranked_QN = np.array(numbers)[order_QN.numpy()]
    precision_Q: list[float] = []
    for query, ranked_N in zip(task.queries, ranked_QN, strict=True):
        precision_Q.append(_precision(task, query, ranked_N, left_out))
    return Found(ranked_QN, tuple(precision_Q), left_out, dims=len(descriptors[0]))


def _regions(
    reader: RegionReader,
    album: Album,
    left_out: dict[int, str],
    *,
    workers: int,
    stepped: Callable[[], None],
) -> Generator[tuple[int, Tensor]]:
    """Yield the number and regions_RD of each usable image; add the others to `left_out`."""
    for number, photograph in enumerate(album.read_all(workers=workers)):
        if isinstance(photograph, UnreadableImageError):
            left_out[number] = str(photograph)
        else:
            try:
                yield number, reader.read(photograph.pixels_HWC)
            except TooSmallError as error:
                left_out[number] = str(error)
        stepped()


def _described(
    reader: RegionReader,
    task: Task,
    query: Query,
    whitening: Pca,
    stepped: Callable[[], None],
) -> Tensor:
    """Return descriptor_D of a query.

    Raises:
        SourceError: the query's box is too small for the layer.
    """
    try:
        regions_RD = reader.read(task.part(query))
    except TooSmallError as error:
        raise task.refused(query, f"its box holds {error}") from error
    stepped()
    return descriptor(regions_RD, whitening).cpu()


def _precision(
    task: Task,
    query: Query,
    ranked_N: NDArray[np.int64],
    left_out: dict[int, str],
) -> float:
    # An image that cannot be used does not count as one that the network failed to find.
    positive = query.positive - left_out.keys()
    if not positive:
        raise task.refused(query, "none of the images that it should find can be read")
    return trapezoid_average_precision(ranked_N, positive, query.junk)
