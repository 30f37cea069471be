"""Batches of the values that classifiers read. Values that never change are kept in memory.

With several ranks, all of them compute the values that never change, and the first one gets them.
It alone computes those of random views, which it uses once, in the step that follows.

Suffixes: N images, B images of a batch, V views of an image, D values of a view, S side and C
channels of a view, R random numbers of an image.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.views import DRAWS, Pixels, augmentation_draws
from deepcluster_core.device_feed.crops import Cut
from deepcluster_core.device_feed.feed import Feed, Request
from deepcluster_core.evaluation.crops import (
    Sides,
    Views,
    fixed_crops,
    fixed_cut,
    training_cut,
    training_views,
)
from deepcluster_core.evaluation.probes.pooling import Frozen
from deepcluster_core.features import ViewBatch
from deepcluster_core.ranks import ALONE, Ranks, in_turns

Rows = NDArray[np.int64]
Values = dict[str, Tensor]
"""values_BD of each layer."""
Batches = Iterator[tuple[Rows, Values]]
"""Pairs of the rows of a batch's images and their values, on the device."""


@dataclass(frozen=True)
class Examples:
    """Images with known classes."""

    picture: Callable[[int], Pixels]
    """Function that returns image 0 to N - 1, (H, W, C); called from several threads."""
    class_N: NDArray[np.int64]
    fed: "Fed | None" = None
    """Makes views of the images on the device; None: threads make them in main memory."""


@dataclass(frozen=True)
class Fed:
    """Images whose packed bytes a feed copies to the device."""

    feed: Feed
    image_id_N: NDArray[np.int64]
    """The image_ids of images 0 to N - 1."""


@dataclass(frozen=True)
class _Planned:
    """A batch of views, and the two ways to make them."""

    rows: Rows
    in_memory: Callable[[Sequence[Pixels]], Pixels]
    """Returns the views of the images of the rows, all of an image, then the next's."""
    cut: Callable[[Sides, Sides], Cut]
    """Describes these views to a device."""
    views_each: int = 1


class Supply:
    """Computes the values of images with a frozen network."""

    def __init__(
        self,
        frozen: Frozen,
        views: Views,
        *,
        batch_size: int,
        workers: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """Store the parts.

        Args:
            frozen: computes values from views.
            views: settings by which images become views.
            batch_size: views in a forward pass.
            workers: number of threads that load images.
            ranks: the ranks that compute values together.
        """
        self.frozen = frozen
        self.views = views
        self.batch_size = batch_size
        self.ranks = ranks
        self._workers = workers

    def training(self, examples: Examples, order_N: Rows, seed: int) -> Batches:
        """Yield the batches of an epoch, with one random view of each image, on this rank alone.

        Args:
            examples: N images.
            order_N: order in which their rows are read.
            seed: seed of the views. The view at a position depends only on the seed, the position
                and the image.
        """

        def plan(start: int) -> _Planned:
            rows = order_N[start : start + self.batch_size]
            # The batch size does not change the draws: they are counted from position 0.
            return _trained(rows, partial(augmentation_draws, seed, start, len(rows)), self.views)

        planned = list(map(plan, range(0, len(order_N), self.batch_size)))
        for batch, values in zip(planned, self._computed(examples, planned), strict=True):
            yield batch.rows, values

    def central(self, examples: Examples) -> Batches:
        """Yield the central view of every image, in order, on the first rank.

        All ranks compute them, and have to read the iterator to its end.
        """
        views = self.views
        central = Views(views.resize, views.size, random_crop=False, flip=0)

        def plan(rows: Rows) -> _Planned:
            # A central view does not depend on random numbers.
            return _trained(rows, partial(np.zeros, (len(rows), DRAWS)), central)

        return self._computed_by_all(examples, plan, self.batch_size)

    def crops(self, examples: Examples, first: int = 0) -> Batches:
        """Yield the V fixed views of every image, (B · V, D), in order, from batch `first` on.

        They are yielded on the first rank. All ranks compute them, and have to read the iterator to
        its end.
        """
        views = self.views
        # Each image gives several views, and a batch has as many views as in training.
        images_at_once = max(1, self.batch_size // views.num_crops)

        def in_memory(images: Sequence[Pixels]) -> Pixels:
            return np.concatenate([fixed_crops(image_HWC, views) for image_HWC in images])

        def plan(rows: Rows) -> _Planned:
            return _Planned(rows, in_memory, partial(fixed_cut, views=views), views.num_crops)

        return self._computed_by_all(examples, plan, images_at_once, first)

    def bytes_of(self, num_views: int) -> int:
        """Return the size of the values of `num_views` views, bytes."""
        values_per_view = sum(self.frozen.numbers.values())
        return num_views * values_per_view * self.frozen.dtype.itemsize

    def _computed_by_all(
        self,
        examples: Examples,
        plan: Callable[[Rows], _Planned],
        images_at_once: int,
        first: int = 0,
    ) -> Batches:
        """Yield the batches from number `first` on, on the first rank."""
        rows_N = np.arange(len(examples.class_N))
        starts = range(first * images_at_once, len(rows_N), images_at_once)
        planned = [plan(rows_N[start : start + images_at_once]) for start in starts]

        def compute(own: Sequence[_Planned]) -> Iterator[Values]:
            for values in self._computed(examples, own):
                # Other ranks cannot send what lies on their devices.
                yield values if self.ranks.size == 1 else _moved(values, "cpu")

        found = in_turns(planned, compute, self.ranks, "values for classifiers")
        for number, values in enumerate(found):
            yield planned[number].rows, _moved(values, self.frozen.device)

    def _computed(self, examples: Examples, planned: Sequence[_Planned]) -> Iterator[Values]:
        """Yield the values of batches, whose views are made ahead."""
        # Closed, so that an error ends the threads at once.
        with closing(self._views_of(examples, planned)) as made:
            for views in made:
                yield self.frozen(views)

    def _views_of(self, examples: Examples, planned: Sequence[_Planned]) -> Generator[ViewBatch]:
        """Yield the views of batches, made by threads or on the device."""
        if examples.fed is not None:
            requests = map(partial(_request, examples.fed.image_id_N), planned)
            for batch in examples.fed.feed.batches(requests, workers=self._workers):
                yield batch.views[0]
            return

        def make(batch: _Planned) -> Pixels:
            return batch.in_memory([examples.picture(row) for row in batch.rows])

        yield from ordered_map(make, planned, workers=self._workers)


def _trained(rows: Rows, draws: Callable[[], NDArray[np.float64]], views: Views) -> _Planned:
    """Return the batch of the views to train on, from the random numbers that `draws` returns."""
    return _Planned(
        rows,
        in_memory=lambda images: training_views(images, draws(), views),
        cut=lambda height_B, width_B: training_cut(height_B, width_B, draws(), views),
    )


def _request(image_id_N: NDArray[np.int64], batch: _Planned) -> Request:
    def cut(height_B: Sides, width_B: Sides) -> list[Cut]:
        return [batch.cut(height_B, width_B)]

    return Request(image_id_N[batch.rows], (batch.views_each,), cut, is_by_image=True)


class Table:
    """The values of the central view of every image, in main memory, readable in any order.

    All ranks compute them, but only the first one keeps them.
    """

    def __init__(self, supply: Supply, examples: Examples) -> None:
        """Compute all values."""
        num_images = len(examples.class_N)
        frozen = supply.frozen
        self._device = frozen.device
        self._batch_size = supply.batch_size
        # Reserve the memory at once, so that it is never needed twice.
        self._values: Values = {}
        if supply.ranks.rank == 0:
            for layer, dim in frozen.numbers.items():
                self._values[layer] = torch.empty(num_images, dim, dtype=frozen.dtype)
        for rows, values in supply.central(examples):
            row_B = torch.from_numpy(rows)
            for layer, values_BD in values.items():
                self._values[layer][row_B] = values_BD.cpu()

    def batches(self, order_N: Rows) -> Batches:
        """Yield the batches of the images in this order."""
        for start in range(0, len(order_N), self._batch_size):
            rows = order_N[start : start + self._batch_size]
            row_B = torch.from_numpy(rows)
            values: Values = {}
            for layer, values_ND in self._values.items():
                values[layer] = values_ND[row_B].to(self._device)
            yield rows, values


class Replay:
    """A sequence of batches that never change, which can be iterated repeatedly.

    The first batches are kept in main memory, as many as fit. The others are computed each time.
    With several ranks, the first one has all batches, and the others only help to compute them.
    """

    def __init__(
        self,
        compute: Callable[[int], Batches],
        *,
        limit_bytes: int,
        device: str,
        ranks: Ranks = ALONE,
    ) -> None:
        """Store the settings. Batches are computed in the first iteration.

        Args:
            compute: function that returns the batches from a given number on.
            limit_bytes: largest size of the batches that are kept.
            device: torch device on which the batches are used.
            ranks: the ranks that compute batches together; all of them have to iterate.
        """
        self._compute = compute
        self._ranks = ranks
        self._free_bytes = limit_bytes
        self._device = device
        self._kept: list[tuple[Rows, Values]] = []
        self._is_full = False

    def __iter__(self) -> Batches:
        for rows, values in self._kept:
            yield rows, _moved(values, self._device)
        # The first iteration computes all batches, later ones those behind the kept ones.
        num_kept = self._ranks.on_first(lambda: len(self._kept), "batches kept")
        for rows, values in self._compute(num_kept):
            self._keep(rows, values)
            yield rows, values

    def _keep(self, rows: Rows, values: Values) -> None:
        """Keep a batch, unless it or an earlier one does not fit."""
        # Later, smaller batches might fit, but only the first ones can be skipped when computing.
        num_bytes = sum(values_BD.nbytes for values_BD in values.values())
        if num_bytes > self._free_bytes:
            self._is_full = True
        if not self._is_full:
            self._free_bytes -= num_bytes
            self._kept.append((rows, _moved(values, "cpu")))


def _moved(values: Values, device: str) -> Values:
    return {layer: values_BD.to(device) for layer, values_BD in values.items()}
