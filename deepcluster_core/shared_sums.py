"""Sums over the ranks of one machine, through memory that all of them map.

gloo exchanges tensors through a socket and a thread of its own, even between two processes of one
machine. On two ranks with a core each, a step of the demo's network, 24 ms on one rank, took 41 ms
with it, and takes 30 ms with this module (benchmarks/README.md).

Each rank copies its part into a slot of its own, announces it by a counter, waits for the counters
of the others, and adds all parts up in the order of the ranks, so that all get the same bits.
"""
# torch.distributed lists only some of its public names.
# pyright: reportPrivateImportUsage=false

import mmap
import os
import secrets
import select
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.errors import RanksError

if TYPE_CHECKING:
    from torch.distributed import Store

SLOT_BYTES = 1 << 20
"""Bytes that a rank hands over at a time; larger tensors go in pieces."""
SLOTS = 2
"""Slots of a rank, which take turns. When all have announced the next piece, they have read this
one, so that its slot is free for the piece after that."""
LINE = 64
"""Bytes of the numbers of a rank. They share no cache line with those of others."""
SPIN_S, NAP_S, LONG_NAP_S, LOOK_EVERY_S = 0.001, 0.00005, 0.001, 0.1
"""A rank that waits looks again and again, after a millisecond with naps in between, and after a
tenth of a second with longer ones. Every tenth of a second, it looks whether the others still
run."""


class SharedSums:
    """The memory that the ranks of a machine share, as one of them sees it."""

    def __init__(
        self, memory: mmap.mmap, processes: list[int], *, rank: int, timeout_s: float
    ) -> None:
        """Take the memory into use.

        Args:
            memory: `size_of(number of ranks)` bytes, 0 at first.
            processes: open descriptors of the processes of the other ranks.
            rank: number of this rank.
            timeout_s: how long to wait for the other ranks.
        """
        size = len(processes) + 1
        numbers = np.frombuffer(memory, np.int64, size * LINE // 8).reshape(size, -1)
        self._turns: NDArray[np.int64] = numbers[:, 0]
        """How many pieces each rank has announced."""
        self._bytes: NDArray[np.int64] = numbers[:, 1 : 1 + SLOTS]
        """The size of each rank's piece in each slot."""
        self._slots = torch.frombuffer(memory, dtype=torch.uint8, offset=size * LINE).view(
            SLOTS, size, SLOT_BYTES
        )
        self._rank = rank
        self._timeout_s = timeout_s
        self._others = [other for other in range(size) if other != rank]
        self._ended = select.poll()
        for process in processes:
            self._ended.register(process, select.POLLIN)
        # Its locking keeps the processor from moving reads and writes of memory across it.
        self._fence = Lock()

    @classmethod
    def opened(cls, store: "Store", *, rank: int, size: int, timeout_s: float) -> Self | None:
        """Return memory that all ranks of a machine share; None if the system does not allow it.

        Args:
            store: where the ranks find each other; all must call this.
            rank: number of this rank.
            size: number of ranks.
            timeout_s: how long to wait for the other ranks, now and in each sum.
        """
        memory = None
        token = secrets.token_hex(8)
        with suppress(OSError, AttributeError):  # not of Linux, or not allowed
            if rank == 0:
                memory, descriptor = _created(token, size_of(size))
                store.set("memory", f"{os.getpid()} {descriptor} {token}")
            else:
                memory = _found(store.get("memory").decode(), size_of(size))
        if rank == 0 and memory is None:
            store.set("memory", "")
        store.set(f"process {rank}", str(os.getpid() if memory is not None else 0))
        numbers = [int(store.get(f"process {number}")) for number in range(size)]
        processes: list[int] | None = None
        if all(numbers):
            with suppress(OSError, AttributeError):
                others = [number for other, number in enumerate(numbers) if other != rank]
                processes = [os.pidfd_open(number) for number in others]
        # Only if all can.
        store.set(f"shares {rank}", str(int(processes is not None)))
        share = [store.get(f"shares {number}") == b"1" for number in range(size)]
        if memory is None or processes is None or not all(share):
            return None
        return cls(memory, processes, rank=rank, timeout_s=timeout_s)

    def add_up(self, total: Tensor) -> None:
        """Replace a contiguous tensor in main memory by its sum over all ranks.

        Raises:
            RuntimeError: another rank has ended, or did not come in time.
            RanksError: the tensors differ in size.
        """
        flat = total.view(-1)
        piece = SLOT_BYTES // total.element_size()
        for first in range(0, len(flat), piece):
            self._add_up(flat[first : first + piece])

    def _add_up(self, total: Tensor) -> None:
        rank = self._rank
        turn = int(self._turns[rank])
        slot = turn % SLOTS
        num_bytes = total.numel() * total.element_size()
        parts = self._slots[slot, :, :num_bytes].view(total.dtype)
        parts[rank].copy_(total)
        self._bytes[rank, slot] = num_bytes
        with self._fence:
            self._turns[rank] = turn + 1
        for other in self._others:
            self._wait_for(other, turn + 1)
        with self._fence:
            sizes = self._bytes[:, slot].tolist()
        if len(set(sizes)) > 1:
            raise RanksError(
                f"the ranks add up tensors of different sizes, in bytes: {sizes}.\n"
                f"  Cause: an error of this program, or ranks with different versions of it\n"
                f"  Fix:   use the same version everywhere; otherwise please report it."
            )
        torch.add(parts[0], parts[1], out=total)
        for part in parts[2:]:
            total += part

    def _wait_for(self, other: int, turn: int) -> None:
        """Wait until another rank has announced so many pieces."""
        if self._turns[other] >= turn:
            return
        start_s = time.monotonic()
        look_s = start_s + LOOK_EVERY_S
        while self._turns[other] < turn:
            now_s = time.monotonic()
            waited_s = now_s - start_s
            nap_s = 0 if waited_s < SPIN_S else NAP_S if waited_s < LOOK_EVERY_S else LONG_NAP_S
            # Both let other threads run: those of this process, and those on this core.
            time.sleep(nap_s)
            os.sched_yield()
            if now_s < look_s:
                continue
            look_s = now_s + LOOK_EVERY_S
            if self._ended.poll(0) and self._turns[other] < turn:
                raise RuntimeError("torch.distributed: another rank has ended")
            if waited_s > self._timeout_s:
                raise RuntimeError("torch.distributed: timed out")


def size_of(size: int) -> int:
    """Return the bytes of memory for so many ranks."""
    return size * (LINE + SLOTS * SLOT_BYTES)


def _created(token: str, num_bytes: int) -> tuple[mmap.mmap, int]:
    """Return new memory, and the descriptor under which other processes find it."""
    descriptor = os.memfd_create(token)
    os.posix_fallocate(descriptor, 0, num_bytes)
    return mmap.mmap(descriptor, num_bytes), descriptor


def _found(place: str, num_bytes: int) -> mmap.mmap:
    """Return the memory of the first rank.

    Raises:
        OSError: it has none, or it cannot be reached.
    """
    if not place:
        raise FileNotFoundError("the first rank has no memory to share")
    process, descriptor, token = place.split()
    path = Path(f"/proc/{process}/fd/{descriptor}")
    # In a container of its own, the number may be that of another process.
    if token not in str(path.readlink()):
        raise FileNotFoundError(path)
    own = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(own, num_bytes)
    finally:
        os.close(own)
