"""Queues of work for a device: CUDA's streams and events, or none on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import torch


class Marker(Protocol):
    """A place in a queue."""

    def synchronize(self) -> None:
        """Wait until all work before this place is done."""
        ...


class Queue(Protocol):
    """Work that a device does in order, later than it is put there."""

    def put(self, work: Callable[[], object]) -> None:
        """Call `work`, whose operations on tensors are done by the device when it gets to them."""
        ...

    def record(self) -> Marker:
        """Return the place behind the work so far."""
        ...

    def wait_for(self, marker: Marker) -> None:
        """Let the work that is put here from now on begin after the place in another queue."""
        ...


@dataclass(frozen=True)
class Queues:
    """The two queues of a feed."""

    device: torch.device
    copying: Queue
    """Copies from main memory."""
    computing: Queue
    """Everything else."""
    is_pinned: bool
    """Whether main memory has to be page-locked, so that copies happen beside other work."""

    @classmethod
    def of(cls, device: str) -> Self:
        """Return the queues of a torch device."""
        kind = torch.device(device)
        if kind.type != "cuda":
            return cls(kind, _Immediate(), _Immediate(), is_pinned=False)
        return cls(kind, _Stream(torch.cuda.Stream(kind)), _Current(kind), is_pinned=True)


class _Immediate:
    """A queue, and a marker, of a CPU, which does all work at once."""

    def put(self, work: Callable[[], object]) -> None:
        work()

    def record(self) -> Marker:
        return self

    def wait_for(self, marker: Marker) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Stream:
    """A CUDA stream."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def put(self, work: Callable[[], object]) -> None:
        with torch.cuda.stream(self._stream):
            work()

    def record(self) -> Marker:
        # Blocking: a thread that waits sleeps, and leaves its core to those that copy images.
        event = torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return event

    def wait_for(self, marker: Marker) -> None:
        assert isinstance(marker, torch.cuda.Event)
        self._stream.wait_event(marker)


class _Current:
    """The stream that is current when work is put there, in which the network computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def _queue(self) -> _Stream:
        return _Stream(torch.cuda.current_stream(self._device))

    def put(self, work: Callable[[], object]) -> None:
        self._queue.put(work)

    def record(self) -> Marker:
        return self._queue.record()

    def wait_for(self, marker: Marker) -> None:
        self._queue.wait_for(marker)
