"""The program `deepcluster` on a small run, in processes that tests kill."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.timeouts import WITHIN_S

PROGRAM = Path(sys.executable).with_name("deepcluster")
# Threads on a few hundred small pictures wait for each other: ten times slower on busy cores.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
"""The environment of every process that a test starts."""
LOOK_EVERY_S = 0.001
"""Seconds between two looks at the files of a run."""


@dataclass(frozen=True)
class Program:
    """A call of `deepcluster run`, with its own home of Prefect."""

    recipe: Path
    run: Path
    home: Path

    def start(self, *more: str) -> "subprocess.Popen[str]":
        """Start it in a process group of its own."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PREFECT_HOME": str(self.home)}
        return subprocess.Popen(
            [PROGRAM, "run", self.recipe, "--run", self.run, *more],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_obey,  # noqa: PLW1509  no threads here
        )

    def finish(self, *more: str) -> str:
        """Run it to its end and return what it printed."""
        process = self.start(*more)
        output, _ = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0, output
        return output

    def orphans(self) -> set[int]:
        """Return the ids of processes that have this home of Prefect."""
        mark = f"PREFECT_HOME={self.home}".encode()
        found: set[int] = set()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # ended meanwhile, or another user's
                if mark in environment.read_bytes().split(b"\0"):
                    found.add(int(environment.parent.name))
        return found

    def flow_states(self) -> list[str]:
        """Return the states of all flow runs in Prefect's database, in the order of creation."""
        with closing(sqlite3.connect(self.home / "prefect.db")) as database:
            rows = database.execute("SELECT state_type FROM flow_run ORDER BY created")
            return [state for (state,) in rows]


def _obey() -> None:
    """Accept Ctrl-C even if the tests themselves run in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def no_orphan_stays(program: Program, *, within_s: float = 10) -> bool:
    """Return whether all processes end in time; the server ends by itself."""
    deadline = time.monotonic() + within_s
    while program.orphans():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill_after(process: "subprocess.Popen[str]", folder: Path, draw: random.Random) -> str | None:
    """Kill a process and its group once files have come or gone a random number of times.

    Args:
        process: process to kill, unless it ends first.
        folder: folder to watch.
        draw: draws the number of changes, and the delay after the last of them.

    Returns:
        The last file that came or went, or None if the process had ended.
    """
    num_changes = draw.randint(1, 14)
    delay_s = draw.choice((0, 0, 0.002, 0.02, 0.1))
    before = _names(folder)
    while process.poll() is None:
        now = _names(folder)
        changed = sorted(now ^ before)
        if len(changed) >= num_changes:
            time.sleep(delay_s)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=WITHIN_S)
            return changed[num_changes - 1]
        num_changes -= len(changed)
        before = now
        time.sleep(LOOK_EVERY_S)
    process.communicate(timeout=WITHIN_S)
    return None


def _names(folder: Path) -> set[str]:
    """Return the names of all files of a run, without Prefect's records."""
    found: set[str] = set()
    for parent, _, names in os.walk(folder):
        if ".prefect" in parent:
            continue
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118  faster than a Path
            found.add(path.removeprefix(f"{folder}/"))
    return found
