"""Estimate when a run ends, from the time that its latest epochs took."""

import time
from collections import deque
from datetime import datetime, timedelta

LATEST = 5
"""Number of latest epochs that count: an average over all would lag behind a machine that others
begin to use."""
A_DAY_S = 24 * 3600


class RunEnd:
    """The estimated end of a run in progress. Epochs whose stages are all Cached do not count."""

    def __init__(self, epochs: int) -> None:
        """Begin to measure.

        Args:
            epochs: total number of epochs of the run.
        """
        self._epochs = epochs
        self._seconds: deque[float] = deque(maxlen=LATEST)
        self._start = time.monotonic()

    def begin_epochs(self) -> None:
        """Measure from now on: what came before, such as indexing, belongs to no epoch."""
        self._start = time.monotonic()

    def after(self, epoch: int, *, ran: bool) -> datetime | None:
        """Return when the run ends, in local time; None if that is not known or has come.

        Args:
            epoch: the epoch that was finished just now.
            ran: whether any stage of it ran.
        """
        now = time.monotonic()
        if ran:
            self._seconds.append(now - self._start)
        self._start = now
        num_left = self._epochs - 1 - epoch
        if not self._seconds or num_left <= 0:
            return None
        mean_s = sum(self._seconds) / len(self._seconds)
        return datetime.now().astimezone() + timedelta(seconds=num_left * mean_s)


def clock_time(end: datetime) -> str:
    """Return a time as 14:32; with its day if it is more than a day away."""
    left = end - datetime.now().astimezone()
    if left.total_seconds() < A_DAY_S:
        return f"{end:%H:%M}"
    return f"{end:%a %d %b %H:%M}"
