"""Feed batches of images to a device: threads copy packed bytes, the device makes the views.

Suffixes: B images of a batch, V views of one kind, F fields of a view, C channels, S side of a
view, X bytes of a slot.
"""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.context import Context
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.device_feed.crops import FIELDS, CropTable, Cut, crop_resized
from deepcluster_core.device_feed.queues import Queues
from deepcluster_core.device_feed.slots import NUM_SLOTS, Ring, Slot
from deepcluster_core.device_feed.source import Source, source_of
from deepcluster_core.models.config import NetworkConfig

if TYPE_CHECKING:
    from deepcluster_core.artifacts.images import Images

ALIGNMENT = 16
"""Bytes by which parts of a slot are aligned, so that they can be read as numbers of any size."""


@dataclass(frozen=True)
class Request:
    """A batch to be fed."""

    image_id_B: NDArray[np.int64]
    num_views: tuple[int, ...]
    """Views of each kind of each image."""
    cut: Callable[[NDArray[np.int64], NDArray[np.int64]], Sequence[Cut]]
    """Returns the views of each kind from the heights and widths (B,) of the images."""
    extras: tuple[NDArray[Any], ...] = ()
    """Small arrays that go along."""
    is_by_image: bool = False
    """Whether the views of an image follow each other; otherwise those of all images do: first the
    first view of each image, then the second one."""


@dataclass(frozen=True)
class FedBatch:
    """A batch on the device; work that is put into the device's current stream finds it."""

    views: tuple[Tensor, ...]
    """For each kind of view, (V, C, S, S) float32, from 0 to 1."""
    extras: tuple[Tensor, ...]
    """The extras of the request."""


@dataclass(frozen=True)
class _Loaded:
    """A filled slot: the fields of the views of each kind, the extras, and the pixels."""

    slot: Slot
    places: Sequence[int]
    """Where each of these begins, in bytes, and the pixels last."""
    num_bytes: int
    tables: Sequence[CropTable]
    sizes: Sequence[int]
    extras: Sequence[NDArray[Any]]


class Feed:
    """Batches on their way to a device."""

    def __init__(
        self,
        source: Source,
        *,
        channels: int,
        device: str | Queues,
        is_verified: bool = False,
        memory_format: torch.memory_format = torch.contiguous_format,
        num_slots: int = NUM_SLOTS,
    ) -> None:
        """Allocate nothing yet.

        Args:
            source: where the pixels of images come from.
            channels: C.
            device: a torch device, or its queues.
            is_verified: whether the checksum of each image is compared.
            memory_format: memory format of the views; the one that the next layer reads fastest.
            num_slots: number of batches on their way.
        """
        self._source = source
        self._channels = channels
        self._queues = device if isinstance(device, Queues) else Queues.of(device)
        self._is_verified = is_verified
        self._memory_format = memory_format
        self._num_slots = num_slots

    @classmethod
    def of(
        cls,
        pictures: "Images",
        network: NetworkConfig,
        context: Context,
        *,
        is_verified: bool = False,
    ) -> Self:
        """Return the feed of an images artifact for a network.

        Args:
            pictures: the images.
            network: what reads the views.
            context: the device.
            is_verified: whether the checksum of each image is compared.
        """
        return cls(
            source_of(pictures),
            channels=pictures.packed_channels,
            device=context.device,
            is_verified=is_verified,
            memory_format=format_read_by(network),
        )

    def batches(self, requests: Iterable[Request], *, workers: int) -> Generator[FedBatch]:
        """Yield the batches of requests, in order; threads copy those that come next.

        Args:
            requests: read in the caller's thread.
            workers: number of threads.

        Raises:
            ArtifactError: an image is damaged.
        """
        ring = Ring(self._queues, self._num_slots)
        loaded = ordered_map(
            lambda numbered: self.load(ring, *numbered), enumerate(requests), workers=workers
        )
        try:
            for each in loaded:
                yield self._send(ring, each)
        finally:
            ring.close()  # first, because threads may wait for a slot
            loaded.close()

    def load(self, ring: Ring, number: int, request: Request) -> _Loaded:
        """Fill the slot of a batch, counted from 0; called in threads."""
        num_images = len(request.image_id_B)
        places = [0]
        fields_bytes = [count * num_images * FIELDS * 8 for count in request.num_views]
        for size in (*fields_bytes, *(extra.nbytes for extra in request.extras)):
            places.append(places[-1] + math.ceil(size / ALIGNMENT) * ALIGNMENT)
        taken: list[tuple[Slot, NDArray[np.uint8]]] = []

        def allocate(num_pixel_bytes: int) -> NDArray[np.uint8]:
            slot = ring.slot(number)
            memory_X = slot.reserve(places[-1] + num_pixel_bytes)
            taken.append((slot, memory_X))
            return memory_X[places[-1] :]

        layout = self._source.copy(request.image_id_B, allocate, is_verified=self._is_verified)
        ((slot, memory_X),) = taken
        cuts = request.cut(layout.height_B, layout.width_B)
        tables: list[CropTable] = []
        for cut, count in zip(cuts, request.num_views, strict=True):
            repeated = np.repeat if request.is_by_image else np.tile
            offset_V = repeated(layout.offset_B, count)
            width_V = repeated(layout.width_B, count)
            tables.append(CropTable.of(offset_V, width_V, cut))
        arrays = (*(table.fields_VF for table in tables), *request.extras)
        for place, array in zip(places[:-1], arrays, strict=True):
            flat_X = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            memory_X[place : place + len(flat_X)] = flat_X
        sizes = [cut.size for cut in cuts]
        return _Loaded(slot, places, len(memory_X), tables, sizes, request.extras)

    def _send(self, ring: Ring, loaded: _Loaded) -> FedBatch:
        """Start the copy of a filled slot and the making of its views."""
        bytes_X = loaded.slot.send(loaded.num_bytes)
        ring.sent()
        num_kinds = len(loaded.tables)
        fields = [
            _as_array(bytes_X, place, table.fields_VF)
            for place, table in zip(loaded.places[:num_kinds], loaded.tables, strict=True)
        ]
        extras = [
            _as_array(bytes_X, place, extra)
            for place, extra in zip(loaded.places[num_kinds:-1], loaded.extras, strict=True)
        ]
        # Extras are copied, because the slot is used again before they are.
        kept = [torch.empty_like(extra) for extra in extras]
        views = [
            self._new(len(table.fields_VF), size)
            for table, size in zip(loaded.tables, loaded.sizes, strict=True)
        ]

        def make() -> None:
            pixels_X = bytes_X[loaded.places[-1] :]
            for table, fields_VF, out_VCSS in zip(loaded.tables, fields, views, strict=True):
                crop_resized(pixels_X, table, fields_VF, out_VCSS)
            for copy, extra in zip(kept, extras, strict=True):
                copy.copy_(extra)

        self._queues.computing.put(make)
        loaded.slot.consumed()
        return FedBatch(tuple(views), tuple(kept))

    def _new(self, count: int, size: int) -> Tensor:
        return torch.empty(
            (count, self._channels, size, size),
            device=self._queues.device,
            memory_format=self._memory_format,
        )


def format_read_by(network: NetworkConfig) -> torch.memory_format:
    """Return the memory format of views in which the first layer of a network reads."""
    # Sobel's filter reads one channel after another, a convolution all channels of a pixel.
    return torch.contiguous_format if network.sobel else torch.channels_last


def _as_array(bytes_X: Tensor, place: int, like: NDArray[Any]) -> Tensor:
    """Return a part of the bytes as an array of the shape and type of another, without a copy."""
    dtype = torch.from_numpy(np.empty(0, like.dtype)).dtype
    return bytes_X[place : place + like.nbytes].view(dtype).view(like.shape)
