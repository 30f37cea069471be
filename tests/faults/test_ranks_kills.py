"""Ranks, their launcher and their run are killed again and again; the same command goes on.

The moments are events in the folder of the run, not times, so that all phases are hit: an attempt
waits for the event that it is to be killed at, however slow the machine is.
"""

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import Condition, inspect
from tests.support.ranked_run import USER_ERROR, RankedRun, when
from tests.support.timeouts import WITHIN_S

pytestmark = [
    pytest.mark.slow,  # dozens of attempts, each of which starts several processes
    pytest.mark.timeout(6 * WITHIN_S),
]

RANKS = 2
EPOCHS = 4
STAGES = {"extract": "features", "cluster": "labels", "train": "checkpoints"}
MOMENTS = ("begin", "middle", "end")
VICTIMS = ("rank", "agent", "flow")
KILLS = [
    *((epoch, stage, moment) for epoch in range(3) for stage in STAGES for moment in MOMENTS),
    *((3, stage, "middle") for stage in STAGES),
]
"""In the order in which a run comes to them, so that each attempt begins where the last one was
killed."""
SEED = "RANKS_KILLS_SEED"
"""Environment variable with the seed of the victims; without it another one each time."""
SETTINGS = {"compute": {"save_every_steps": 3}}


PARTS = {"extract": "features.zarr/c/*/0", "cluster": "_unfinished", "train": "_saved*"}
"""Files that show that a stage is in its midst. What clustering makes comes only at its end."""


def event(run: RankedRun, stage: str, epoch: int, moment: str) -> Callable[[], bool]:
    """Return a function that tells whether a moment of a stage has come in a new attempt."""
    folder = run.artifact(STAGES[stage], epoch)
    manifest = folder / "_manifest.json"

    def written() -> set[tuple[Path, int]]:
        found: set[tuple[Path, int]] = set()
        for path in folder.glob(PARTS[stage]):
            with suppress(FileNotFoundError):  # replaced meanwhile
                found.add((path, path.stat().st_mtime_ns))
        return found

    before = written()  # what earlier attempts have left
    if moment == "begin":  # the processes have just started
        return lambda: len(run.ranks()) == RANKS
    if moment == "end":
        return manifest.exists
    return lambda: bool(written() - before) or manifest.exists()


def kill(
    run: RankedRun, process: "subprocess.Popen[str]", victim: str, draw: random.Random
) -> None:
    """Kill a process of a run; the flow if there is no rank or agent any more."""
    found = [number for number, kind in run.processes().items() if kind.startswith(victim)]
    chosen = draw.choice(sorted(found)) if found else process.pid
    with suppress(ProcessLookupError):  # it ends at this moment
        os.kill(chosen, signal.SIGKILL)


def ends(process: "subprocess.Popen[str]", manifest: Path) -> None:
    """Check how an attempt ends whose process was killed."""
    if when(manifest.exists, process):  # too late: the stage was done, and the run goes on
        process.kill()
    output, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode in (USER_ERROR, -signal.SIGKILL), output
    assert "Traceback" not in output
    if process.returncode == USER_ERROR:
        assert "Fix:" in output
        assert "same command" in output


@pytest.fixture
def undisturbed_ranks(ranked: RankedRun) -> RankedRun:
    run = replace(ranked, run=ranked.run.with_name("undisturbed"))
    run.finish(RANKS, epochs=EPOCHS, **SETTINGS)
    return run


def test_run__killed_in_every_phase(ranked: RankedRun, undisturbed_ranks: RankedRun) -> None:
    # Not a parameter: all processes of pytest-xdist must collect the same tests.
    seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(1000))
    print(f"to repeat it: {SEED}={seed}")  # noqa: T201
    draw = random.Random(seed)  # noqa: S311  no secret
    victims = [VICTIMS[number % 3] for number in range(len(KILLS))]
    draw.shuffle(victims)
    num_hit: Counter[str] = Counter()
    for (epoch, stage, moment), victim in zip(KILLS, victims, strict=True):
        folder = ranked.artifact(STAGES[stage], epoch)
        has_come = event(ranked, stage, epoch, moment)
        process = ranked.start(RANKS, epochs=EPOCHS, **SETTINGS)
        assert when(has_come, process), process.communicate()[0]
        kill(ranked, process, victim, draw)
        ends(process, folder / "_manifest.json")
        assert ranked.all_ended(), ranked.processes()
        ranked.check_artifacts()
        condition = inspect(folder)[0]
        num_hit[stage] += condition is not Condition.WHOLE
        print(stage, epoch, moment, victim, condition)  # noqa: T201

    ranked.finish(RANKS, epochs=EPOCHS, **SETTINGS)

    assert len(KILLS) == 30
    # At the three begins of a stage, its processes still have seconds of imports before them. Its
    # ends, and with luck its middles, can be over before the signal arrives.
    assert all(num_hit[stage] >= 3 for stage in STAGES), num_hit
    for epoch in range(EPOCHS):
        for kind in ("features", "labels", "checkpoints"):
            assert ranked.files(kind, epoch) == undisturbed_ranks.files(kind, epoch), (kind, epoch)
    left = [path for path in ranked.run.rglob("*") if path.name.startswith(("_saved", "_unfin"))]
    assert not left, "nothing of the killed attempts"
    assert not list(ranked.scratch.iterdir())
