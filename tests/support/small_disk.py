"""Small file systems in memory, which become full. Only root may mount them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(kind: str, what: str, folder: Path, options: str) -> int:
    """Mount a file system; return the exit status of `mount`."""
    command = ["mount", "-t", kind, "-o", options, what, folder]
    return subprocess.run(command, check=False, capture_output=True).returncode


@contextmanager
def small_disk(folder: Path, *, kib: int) -> Iterator[Path]:
    """Make `folder` a file system of this size during the block; skip where that is not allowed."""
    folder.mkdir()
    if os.geteuid() != 0 or mount("tmpfs", "tmpfs", folder, f"size={kib}k") != 0:
        pytest.skip("only root may mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
