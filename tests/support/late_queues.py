"""Queues whose work is done as late as is allowed: when somebody waits for it.

A real GPU does its work at some time between the call and this one: a program that gives the right
numbers here does not rely on it being early.
"""

import threading
from collections.abc import Callable

import torch

from deepcluster_core.device_feed.queues import Marker, Queues


class LateQueue:
    """Work in order, none of which is done before a marker is waited for."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._works: list[Callable[[], object]] = []
        self.num_done = 0

    def put(self, work: Callable[[], object]) -> None:
        """Keep the work for later."""
        self._works.append(work)

    def record(self) -> "LateMarker":
        """Return the place behind the work so far."""
        return LateMarker(self, len(self._works))

    def wait_for(self, marker: Marker) -> None:
        """Do the work of another queue before later work of this one."""
        assert isinstance(marker, LateMarker)
        self.put(lambda: marker.queue.run(marker.place))

    def run(self, until: int) -> None:
        """Do the work before a place."""
        with self._lock:
            while self.num_done < until:
                self.num_done += 1
                self._works[self.num_done - 1]()


class LateMarker:
    """A place in a late queue."""

    is_broken = False
    """Whether to return from `synchronize` at once, as a program would that forgot to call it."""

    def __init__(self, queue: LateQueue, place: int) -> None:
        self.queue = queue
        self.place = place

    def synchronize(self) -> None:
        """Do all work before this place."""
        if not self.is_broken:
            self.queue.run(self.place)


def late_queues() -> tuple[Queues, LateQueue]:
    """Return the queues of a feed, and the one that computes; `run` it to see the results."""
    lock = threading.RLock()
    computing = LateQueue(lock)
    return Queues(torch.device("cpu"), LateQueue(lock), computing, is_pinned=False), computing
