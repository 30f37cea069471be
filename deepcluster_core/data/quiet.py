"""Suppress Pillow's warnings, in all threads."""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_quiet_lock = threading.Lock()
_quiet_threads = 0
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings (damaged EXIF blocks and the like) while any thread is inside.

    `warnings.catch_warnings` is not thread-safe: each block restores the list of filters that it
    found, so overlapping blocks can leave a wrong list behind. This adds one filter when the first
    thread enters and removes it when the last one leaves.
    """
    global _quiet_threads  # noqa: PLW0603  the filters of a process are global themselves
    with _quiet_lock:
        if _quiet_threads == 0:
            warnings.filterwarnings("ignore", module=_IGNORE_PILLOW[3].pattern)
        _quiet_threads += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_threads -= 1
            if _quiet_threads == 0 and _IGNORE_PILLOW in warnings.filters:
                warnings.filters.remove(_IGNORE_PILLOW)  # pyright: ignore[reportAttributeAccessIssue]
