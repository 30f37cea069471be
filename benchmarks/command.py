"""The command `deepcluster` as a side of a benchmark: its wall time, and its CPU time."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import BenchmarkError
from benchmarks.machine import ROOT

DEMO = str(ROOT / "configs" / "demo.yaml")
CACHED = "every stage Cached"
PROGRAM = Path(sys.executable).with_name("deepcluster")


def timed_run(
    run: str, home: str, settings: Sequence[str], *, cached: bool = False
) -> dict[str, float]:
    """Run the demo recipe; return the seconds until the command has ended.

    Args:
        run: folder of the run.
        home: of Prefect, so that the person's own records stay as they are.
        settings: `key=value`, over the recipe.
        cached: everything must be there already; else something must not.

    Raises:
        BenchmarkError: it failed, or the other was the case.
    """
    command = [PROGRAM, "run", DEMO, "--run", run, *(f"--set={setting}" for setting in settings)]
    environment = os.environ | {"PREFECT_HOME": home}
    environment.pop("PREFECT_API_URL", None)  # the server that most people have: the command's own
    start = time.perf_counter()
    ended = subprocess.run(  # noqa: S603  our own words
        command, env=environment, text=True, stdout=subprocess.PIPE, check=False
    )
    seconds = time.perf_counter() - start
    if ended.returncode or cached != (CACHED in ended.stdout):
        raise BenchmarkError(f"deepcluster run: exit code {ended.returncode}.\n{ended.stdout}")
    return {"seconds": seconds}


def cpu_time(arguments: Sequence[str]) -> dict[str, float]:
    """Run a command that only looks at something; return the CPU seconds, user and system.

    Raises:
        CalledProcessError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([PROGRAM, *arguments], stdout=subprocess.DEVNULL, check=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cpu_s": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime}
