"""How long tests wait for something to happen.

No result depends on it: a test that hangs fails after this time instead of never. Whole commands
that took a minute on two busy cores have taken four on slower ones.
"""

import time
from collections.abc import Callable
from typing import Any

WITHIN_S = 600
"""The longest that a test waits for a process to start, to answer, or to end, seconds."""


def eventually(ask: Callable[[], Any], wanted: object) -> None:
    """Wait until a question has an answer."""
    deadline = time.monotonic() + WITHIN_S
    while ask() != wanted:
        assert time.monotonic() < deadline, f"{ask()!r}, not {wanted!r}"
        time.sleep(0.02)
