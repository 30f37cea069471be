"""Ctrl-C, SIGTERM and SIGHUP, held back until a moment at which work can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP: the terminal was closed, or the connection to it was lost."""


class Interrupted(Exception):  # noqa: N818  no error: somebody asked for it
    """Work has been saved and ends here, because the process was told to end."""


class HeldBack:
    """What has come while signals are held back."""

    def __init__(self) -> None:
        """Nothing has come, and nothing is held back yet."""
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """Take the signals that are not ignored."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def end(self) -> None:
        """Give them back, and let the one that came have its usual effect."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        came, self.signal = self.signal, None
        if came is not None:
            signal.raise_signal(came)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Keep the first; a second is of somebody who does not want to wait."""
        again, self.signal = self.signal is not None, number
        if again:
            self.end()


@contextmanager
def held_back() -> Iterator[HeldBack]:
    """Hold signals back; the block looks for them and ends, then they have their usual effect.

    Signals that are ignored stay so. In another thread than the main one nothing is held back: only
    that one may change handlers, and they are called nowhere else.
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
