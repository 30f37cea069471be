"""The program `deepcluster` on a small run, in processes that tests kill, and what they leave."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from stages.runs.epoch import EPOCH_KINDS
from tests.patience import WITHIN_S

PROGRAM = Path(sys.executable).with_name("deepcluster")
EPOCHS = 2
RECIPE = """
epochs: {epochs}
dataset: {{source: {source}, shorter_side: 16, channels: 1, encoding: raw}}
network: {{name: smallnet, image_size: 16}}
extract: {{resize: 16, batch_size: 48}}
cluster: {{k: 8, pca_dim: 8}}
train: {{batch_size: 16, reassign_every: 2}}
keep: {{features: null}}
compute: {{save_every_steps: 4}}
"""
LOOK_EVERY_S = 0.001
MEASURED = ("_s", "_per_s", "_bytes")
"""Endings of the columns of metrics that depend on the machine and the moment."""


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


def write_recipe(path: Path, source: Path) -> Path:
    path.write_text(RECIPE.format(source=source, epochs=EPOCHS))
    return path


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


def learnt(run: Path) -> dict[str, object]:
    """Return all that a run computed: its files' bytes, and its metrics but for what they cost."""
    found: dict[str, object] = {
        path.relative_to(run).as_posix(): path.read_bytes() for path in _results(run)
    }
    for table in run.glob("metrics/*/*.parquet"):
        with pq.ParquetFile(table) as file:
            (row,) = file.read().to_pylist()
        scores = {name: value for name, value in row.items() if not name.endswith(MEASURED)}
        found[table.relative_to(run).as_posix()] = scores
    return found


def _results(run: Path) -> Iterator[Path]:
    for kind in ("images", *EPOCH_KINDS):
        for path in (run / kind).rglob("*"):
            if path.is_file() and kind != "metrics" and path.name != "_manifest.json":
                if not path.name.endswith(".lock"):
                    yield path
