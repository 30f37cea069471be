"""Processes that end when their parent ends, and processes that are recognised later.

Only the standard library is imported, because a rank calls this before anything else.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h
PARENT = "DEEPCLUSTER_PARENT"
"""Variable with the process that must be a rank's parent, from launchers on the same machine."""
LOOK_EVERY_S = 0.5


def end_with_parent(parent: int | None) -> None:
    """End this process at once, from now on, when its parent has ended.

    Args:
        parent: the process that should be the parent; None if it is not known.
    """
    if sys.platform == "linux":
        # The kernel kills this process, whatever it does at that moment.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        _watch(os.getppid())
    # The parent may have ended before the kernel was asked.
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    """Compare the parent again and again, on systems whose kernel cannot be asked."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=look, name="parent", daemon=True).start()


def start_time(process: int) -> str | None:
    """Return when a process started, in the kernel's clock ticks; None if it has ended.

    Together with its number, this identifies a process: numbers are used again.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # The name of the program, in parentheses, can hold spaces. The state and 18 numbers follow.
    state, *fields = text.rpartition(")")[2].split()
    if state in ("Z", "X"):  # ended; only its parent has not looked yet
        return None
    return fields[18]


def kill(process: int, started: str | None, *, within_s: float) -> bool:
    """Kill a process, if it still is the one that started then; return whether it has ended.

    Args:
        process: its number.
        started: `start_time` of the process. None if that is unknown, outside Linux: its parent has
            ended then, and `end_with_parent` ends it.
        within_s: how long to wait for its end, seconds.
    """
    deadline = time.monotonic() + within_s
    while started is not None and start_time(process) == started:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        # A process that waits for a disk ends only when the disk answers.
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
