"""The command `deepcluster` as a side of a benchmark: its wall time, and its CPU time."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import BenchmarkError
from benchmarks.machine import ROOT

DEMO = str(ROOT / "configs" / "demo.yaml")
CACHED = "every stage Cached"
PROGRAM = Path(sys.executable).with_name("deepcluster")


def timed_run(
    run: str,
    home: str,
    settings: Sequence[str],
    *,
    cached: bool = False,
    environment: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Run the demo recipe; return the wall time of the command, seconds.

    Args:
        run: folder or URL of the run.
        home: Prefect's home folder, so that the user's own records stay unchanged.
        settings: overrides of the recipe, `key=value`.
        cached: whether every stage is expected to be cached. If not, at least one must run.
        environment: further environment variables.

    Raises:
        BenchmarkError: the command failed, or the expectation was wrong.
    """
    overrides = [f"--set={setting}" for setting in settings]
    command = [PROGRAM, "run", DEMO, "--run", run, *overrides]
    all_environment = {**os.environ, "PREFECT_HOME": home, **(environment or {})}
    all_environment.pop("PREFECT_API_URL", None)  # use the command's own server, as most users do
    start = time.perf_counter()
    ended = subprocess.run(  # noqa: S603  our own words
        command, env=all_environment, text=True, stdout=subprocess.PIPE, check=False
    )
    seconds = time.perf_counter() - start
    was_cached = CACHED in ended.stdout
    if ended.returncode != 0 or was_cached != cached:
        raise BenchmarkError(f"deepcluster run: exit code {ended.returncode}.\n{ended.stdout}")
    return {"seconds": seconds}


def cpu_time(arguments: Sequence[str]) -> dict[str, float]:
    """Run a read-only command; return its CPU time, user and system, seconds.

    Raises:
        CalledProcessError: the command failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([PROGRAM, *arguments], stdout=subprocess.DEVNULL, check=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user_s = after.ru_utime - before.ru_utime
    system_s = after.ru_stime - before.ru_stime
    return {"cpu_s": user_s + system_s}
