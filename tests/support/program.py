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


@dataclass(frozen=True)
class Program:
    """How `deepcluster run` is called: a recipe, a folder, and a home of Prefect of its own."""

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
        """Return the processes that have this home of Prefect."""
        mark = f"PREFECT_HOME={self.home}".encode()
        found: set[int] = set()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # ended meanwhile, or another user's
                if mark in environment.read_bytes().split(b"\0"):
                    found.add(int(environment.parent.name))
        return found

    def flow_states(self) -> list[str]:
        """Return the states of all flow runs that Prefect knows, first one first."""
        with closing(sqlite3.connect(self.home / "prefect.db")) as database:
            rows = database.execute("SELECT state_type FROM flow_run ORDER BY created")
            return [state for (state,) in rows]


def _obey() -> None:
    """Take Ctrl-C even where the tests themselves run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def no_orphan_stays(program: Program, *, within_s: float = 10) -> bool:
    """Wait until all processes are gone; the server ends by itself."""
    deadline = time.monotonic() + within_s
    while program.orphans():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill_after(process: "subprocess.Popen[str]", folder: Path, draw: random.Random) -> str | None:
    """Kill a process and its group once files have come or gone a random number of times.

    Args:
        process: is killed, unless it ends before.
        folder: that is watched, over and over.
        draw: decides after how many changes and how long after the last of them.

    Returns:
        The last file that came or went, or None if the process had ended.
    """
    changes, delay_s = draw.randint(1, 14), draw.choice((0, 0, 0.002, 0.02, 0.1))
    before = _names(folder)
    while process.poll() is None:
        now = _names(folder)
        changed = sorted(now ^ before)
        if len(changed) >= changes:
            time.sleep(delay_s)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=WITHIN_S)
            return changed[min(changes, len(changed)) - 1]
        changes, before = changes - len(changed), now
        time.sleep(LOOK_EVERY_S)
    process.communicate(timeout=WITHIN_S)
    return None


def _names(folder: Path) -> set[str]:
    found: set[str] = set()
    for parent, _, names in os.walk(folder):
        if ".prefect" not in parent:
            found.update(os.path.join(parent, name).removeprefix(f"{folder}/") for name in names)  # noqa: PTH118  quick
    return found
