"""Memory that batches pass through on their way to a device, used again and again.

A slot is a piece of main memory, page-locked for a GPU, and a piece of the device's memory of the
same size. Two things could go wrong when it is used again: threads could overwrite main memory that
is still copied, and a copy could overwrite device memory that is still read. Both happen
later than the program orders them, so each has a marker that is waited for.
"""

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.device_feed.queues import Marker, Queues

NUM_SLOTS = 4
"""Batches on their way: one becomes views, one is copied, and two are filled by threads."""
SPARE = 1.25
"""Size of new memory by the size that is needed, because batches of images differ in size."""


class FeedClosedError(Exception):
    """Raised in threads that fill slots after the feed has ended."""


class Slot:
    """Memory for one batch. One thread fills it at a time; another one sends it."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._host = torch.empty(0, dtype=torch.uint8)
        self._on_device: Tensor | None = None
        self._copied: Marker | None = None
        self._consumed: Marker | None = None

    def reserve(self, num_bytes: int) -> NDArray[np.uint8]:
        """Return main memory to fill, after the last copy from it is done.

        The pinned memory of a GPU is slow to get, so that larger memory is asked for than needed.
        """
        if self._copied is not None:
            self._copied.synchronize()
        if len(self._host) < num_bytes:
            size = int(num_bytes * SPARE)
            self._host = torch.empty(size, dtype=torch.uint8, pin_memory=self._queues.is_pinned)
        return self._host[:num_bytes].numpy()

    def send(self, num_bytes: int) -> Tensor:
        """Start to copy the first bytes to the device; return them as they will be there.

        What is put into the computing queue from now on finds them. Call `consumed` after the last
        work that reads them.
        """
        copying, computing = self._queues.copying, self._queues.computing
        host, on_device = self._host, self._on_device
        if on_device is None or len(on_device) < num_bytes:
            on_device = torch.empty(len(host), dtype=torch.uint8, device=self._queues.device)
            self._on_device = on_device
            # The new memory may have belonged to a tensor that queued work still uses.
            self._consumed = computing.record()
        if self._consumed is not None:
            copying.wait_for(self._consumed)
        copying.put(lambda: on_device[:num_bytes].copy_(host[:num_bytes], non_blocking=True))
        self._copied = copying.record()
        computing.wait_for(self._copied)
        return on_device[:num_bytes]

    def consumed(self) -> None:
        """Note that all work that reads the bytes on the device is in the computing queue."""
        self._consumed = self._queues.computing.record()


class Ring:
    """Slots that batches use in turn: batch n has the slot of batch n - `num_slots`.

    Batches get their slots in order, so that later ones never hold all slots while an earlier one
    waits for its own.
    """

    def __init__(self, queues: Queues, num_slots: int = NUM_SLOTS) -> None:
        self._slots = [Slot(queues) for _ in range(num_slots)]
        self._num_sent = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def slot(self, number: int) -> Slot:
        """Return the slot of a batch, counted from 0, after the batch before in it was sent.

        Raises:
            FeedClosedError: the ring is closed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or number < self._num_sent + len(self._slots)
            )
            if self._is_closed:
                raise FeedClosedError
        return self._slots[number % len(self._slots)]

    def sent(self) -> None:
        """Note that the next batch, in order, was sent."""
        with self._changed:
            self._num_sent += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End the waiting of all threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
