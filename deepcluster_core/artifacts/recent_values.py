"""Values that are made on demand and kept until many others were made."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class RecentValues(Generic[T]):
    """Values by number, of which those made last are kept; thread-safe.

    What was made first is dropped first. Unlike an order by use, this costs nothing when a value is
    found, and it is as good for the two orders in which images are read: ascending and random.
    """

    def __init__(self, make: Callable[[int], T], *, limit: int) -> None:
        """Keep nothing yet.

        Args:
            make: returns the value of a number. Two threads may call it at once for the same one.
            limit: number of values to keep.
        """
        self._make = make
        self._limit = limit
        self._values: dict[int, T] = {}
        self._lock = Lock()

    def __getitem__(self, number: int) -> T:
        try:
            return self._values[number]
        except KeyError:
            pass
        value = self._make(number)
        with self._lock:
            self._values[number] = value
            if len(self._values) > self._limit:
                oldest = next(iter(self._values))
                del self._values[oldest]
        return value

    def __len__(self) -> int:
        return len(self._values)
