"""Defer Ctrl-C, SIGTERM and SIGHUP until work can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = [signal.SIGINT, signal.SIGTERM]
"""The signals that ask a process to stop. SIGHUP means that the terminal was closed or that its
connection was lost."""
if hasattr(signal, "SIGHUP"):  # Windows does not have it
    SIGNALS.append(signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818  a requested stop, not an error
    """Raised after work was saved, because a signal asked the process to stop."""


class HeldBack:
    """Records the signal that arrives while signals are deferred."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """Start to defer all signals that are not ignored."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def end(self) -> None:
        """Restore the previous handlers and deliver the signal that arrived, if any."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        deferred = self.signal
        self.signal = None
        # Last, because the handler may raise.
        if deferred is not None:
            signal.raise_signal(deferred)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Record the first signal; a second signal takes effect immediately."""
        is_second = self.signal is not None
        self.signal = number
        if is_second:
            self.end()


@contextmanager
def held_back() -> Iterator[HeldBack]:
    """Defer signals inside the block, and deliver the one that arrived when the block ends.

    The block should check `HeldBack.signal` and end soon after it is set. Ignored signals stay
    ignored. Outside the main thread this does nothing, because Python changes and runs signal
    handlers in the main thread only.
    """
    held = HeldBack()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    held.begin()
    try:
        yield held
    finally:
        held.end()
