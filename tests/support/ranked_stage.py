"""A stage for tests of launchers: its ranks compute a sum together, or fail as they are told."""

import os
import signal
import time
from pathlib import Path

import torch

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.errors import FeatureError
from deepcluster_core.interrupts import held_back
from deepcluster_core.ranks import Ranks
from deepcluster_core.stage import stage
from stages.runs.job import Job
from tests.support.timeouts import WITHIN_S

NOTES = "notes"


class ActConfig(StrictConfig):
    """What the ranks do."""

    act: str = "sum"
    """sum, raise, bug, die, wait or save."""
    rank: int = 0
    """The rank that does it, where only one does."""


@stage(name="ranked", version=1, kind="ranked", files=("sum",), ranks="many")
def ranked(draft: Draft, act: ActConfig, /, *, data: Path | None) -> None:
    """Write the sum of the numbers of all ranks, or end otherwise."""
    context = draft.context
    ranks = context.ranks
    _note(draft.folder, ranks, context)
    ranks.barrier("begin")
    is_chosen = ranks.rank == act.rank
    if act.act == "raise" and is_chosen:
        raise FeatureError("too few rows.\n  Fix: add images.")
    if act.act == "bug" and is_chosen:
        raise ZeroDivisionError("of a rank")
    if act.act == "die" and is_chosen:
        os.kill(os.getpid(), signal.SIGKILL)
    if act.act == "wait":
        _wait(draft.folder)
    if act.act == "save":
        _save_when_asked(draft.folder, ranks)
    total = ranks.sum(torch.tensor(ranks.rank + 1.0), "numbers")
    context.progress(1, 1)
    if ranks.rank == 0:
        (draft.folder / "sum").write_text(f"{total.item():g} of {ranks.size}")


def ranked_job(out: Path, act: str = "sum", rank: int = 0, data: Path | None = None) -> Job:
    """Return a job of the stage."""
    return Job(ranked, {"act": ActConfig(act=act, rank=rank)}, {"data": data}, out, 31, 0)


def notes(out: Path) -> list[list[str]]:
    """Return the notes of the ranks that have started: rank, process, threads, parent's id."""
    files = sorted(out.parent.glob(f"{out.name}-{NOTES}-*"))
    return [file.read_text().split() for file in files]


def _note(out: Path, ranks: Ranks, context: Context) -> None:
    found = [ranks.rank, os.getpid(), torch.get_num_threads(), os.getppid(), context.device]
    note = out.with_name(f"{out.name}-{NOTES}-{ranks.rank}")
    part = note.with_name(f".{note.name}")
    part.write_text(" ".join(map(str, found)))
    part.replace(note)


def _wait(out: Path) -> None:
    """Wait until the test says so."""
    deadline = time.monotonic() + WITHIN_S
    while not out.with_name("go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _save_when_asked(out: Path, ranks: Ranks) -> None:
    """Work until all ranks have agreed to stop; then the first one saves, which takes a while."""
    with held_back() as held:
        while not ranks.any(held.signal is not None, "stop"):
            time.sleep(0.01)
        if ranks.rank == 0:
            time.sleep(1)
            out.with_name("saved").touch()
