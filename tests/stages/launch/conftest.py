"""A stand-in for Slurm's srun."""

import os
from pathlib import Path

import pytest

SRUN = """#!/bin/sh
# Like srun: runs a command once for each task, with Slurm's variables, and ends all if one fails.
while :; do
  case "$1" in
    --ntasks=*) num_tasks="${1#--ntasks=}"; shift ;;
    --*) shift ;;
    *) break ;;
  esac
done
pids=""
for task in $(seq 0 $((num_tasks - 1))); do
  SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=$num_tasks "$@" &
  pids="$pids $!"
done
code=0
for pid in $pids; do
  wait "$pid" || { code=$?; kill $pids 2> /dev/null; }
done
exit $code
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Put this process into an allocation of two tasks on one node; there is no scontrol."""
    commands = tmp_path / "slurm"
    commands.mkdir()
    (commands / "srun").write_text(SRUN)
    (commands / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "2",
        "SLURM_TASKS_PER_NODE": "2",
        "SLURM_JOB_NODELIST": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch
