"""How far each rank of a stage has come, which the others read in the store where they have met.

A rank that waits for another one learns from it whether that one lives, and whom to name if not.
"""
# torch.distributed lists only some of its public names.
# pyright: reportPrivateImportUsage=false

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from torch.distributed import PrefixStore, Store

T = TypeVar("T")

PUBLISH_S = 5.0
"""Longest time between two reports of a rank that it lives, and how far it has come, seconds."""
LOOK_EVERY_S = 0.1
"""Longest pause between two looks of a rank that waits for the first one to finish its work."""
ANSWERS_WITHIN_S = 10.0
"""Seconds in which a store that lives answers what a rank asks about the others."""


class RankProgress:
    """The number of calls that each rank has begun, and its beats, which show that it lives.

    All ranks make the same calls in the same order, so that numbers of calls can be compared.
    """

    def __init__(self, store: Store, *, rank: int, size: int, timeout_s: float) -> None:
        """Begin without a call.

        Args:
            store: where the ranks have met.
            rank: number of this rank.
            size: number of ranks.
            timeout_s: how long a call waits for the other ranks, seconds.
        """
        self._store = PrefixStore("progress", store)
        self._rank = rank
        self._size = size
        self._timeout_s = timeout_s
        self._beat_s = min(PUBLISH_S, timeout_s / 4)
        self._num_calls = 0
        self._publishing = threading.Lock()
        self._ended = threading.Event()

    def begin_call(self) -> None:
        """Count a call of this rank; others read of it at the next beat."""
        self._num_calls += 1

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Report in the background how far this rank has come, during the block."""
        self._store.set(f"host {self._rank}", f"{socket.gethostname()}, process {os.getpid()}")
        self._store.set(f"beats {self._rank}", "0")
        self._store.set(f"calls {self._rank}", "0")
        thread = threading.Thread(target=self._publish, name="ranks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(ANSWERS_WITHIN_S)  # longer if the store does not answer

    def _publish(self) -> None:
        published = num_beats = 0
        while not self._ended.wait(self._beat_s):
            num_beats += 1
            try:
                if self._num_calls != published:
                    published = self._publish_calls()
                self._store.set(f"beats {self._rank}", str(num_beats))
            except RuntimeError:
                return  # the process that holds the store is gone; so will be this one

    def _publish_calls(self) -> int:
        """Report the number of calls so far, and return it."""
        # Locked, so that the other thread cannot overwrite a number with a smaller one.
        with self._publishing:
            num_calls = self._num_calls
            self._store.set(f"calls {self._rank}", str(num_calls))
        return num_calls

    def wait_for_first(self) -> None:
        """Wait until the first rank has come to the current call, however long it works before.

        What it does alone can take hours, so that a time limit would have to be longer than that.
        Whether it lives can be seen from its beats.

        Raises:
            RuntimeError: it has not been heard of for the time limit of a call.
        """
        if self._rank == 0:
            self._publish_calls()
            return
        pause_s = 0.001
        beats, heard_s = b"", time.monotonic()

        def look() -> tuple[int, bytes]:
            return int(self._store.get("calls 0")), self._store.get("beats 0")

        while True:
            num_calls, now_beats = _answered(look, within_s=self._timeout_s)
            if num_calls >= self._num_calls:
                return
            if now_beats != beats:
                beats, heard_s = now_beats, time.monotonic()
            elif time.monotonic() - heard_s > self._timeout_s:
                raise RuntimeError("timed out: the first rank is not heard of")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_EVERY_S)

    def missing(self) -> str:
        """Name the ranks that have not reached the call in which this rank waits, or hang in it."""
        try:
            missing = _answered(self._missing, within_s=2 * self._beat_s + ANSWERS_WITHIN_S)
        except RuntimeError:
            return "rank 0, which does not answer"
        return ", ".join(missing) or "an answer, although all ranks have arrived"

    def _missing(self) -> list[str]:
        others = [rank for rank in range(self._size) if rank != self._rank]
        missing: list[str] = []
        for rank in others:
            if not self._store.check([f"calls {rank}", f"host {rank}"]):
                missing.append(f"rank {rank} (which has joined, but not begun)")
            elif int(self._store.get(f"calls {rank}")) < self._num_calls:
                missing.append(self._placed(rank))
        if missing:
            return missing
        # All have arrived, so that one must have stopped in the middle of the call.
        before = [self._store.get(f"beats {rank}") for rank in others]
        time.sleep(2 * self._beat_s)
        for rank, beats in zip(others, before, strict=True):
            if self._store.get(f"beats {rank}") == beats:
                missing.append(self._placed(rank))
        return missing

    def _placed(self, rank: int) -> str:
        return f"rank {rank} ({self._store.get(f'host {rank}').decode()})"


def _answered(ask: Callable[[], T], *, within_s: float) -> T:
    """Return what a store answers.

    Where the process that holds a TCPStore is stopped, but not ended, its clients wait for an
    answer without a limit. So it is asked in a thread, which is then left alone.

    Raises:
        RuntimeError: the store is gone, or does not answer in time.
    """
    answers: queue.SimpleQueue[tuple[T | None, RuntimeError | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((ask(), None))
        except RuntimeError as error:
            answers.put((None, error))

    threading.Thread(target=work, name="asks the store", daemon=True).start()
    try:
        answer, error = answers.get(timeout=within_s)
    except queue.Empty:
        raise RuntimeError("timed out: the store of the first rank does not answer") from None
    if error is not None:
        raise error
    return cast("T", answer)
