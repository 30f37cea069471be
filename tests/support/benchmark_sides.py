"""Sides that the tests of the harness run."""

import os
import sys
from pathlib import Path


def note(name: str, diary: str) -> dict[str, float]:
    """Write the name of the side that runs, and return figures."""
    with Path(diary).open("a") as file:
        file.write(name)
    return {"count": len(Path(diary).read_text())}


def fill(mega: int) -> None:
    """Hold this many MiB of memory for a moment."""
    held = bytearray(os.urandom(1 << 20) * mega)
    del held


def environment() -> dict[str, float]:
    """Return which process this is, and which settings it started with."""
    return {
        "spin": float("GOMP_SPINCOUNT" in os.environ),
        "flows": float("flows" in sys.modules),
        "process": os.getpid(),
    }


def fail() -> None:
    raise RuntimeError("as asked for")
