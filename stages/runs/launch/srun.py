"""Start ranks with srun, as a step of the Slurm allocation in which the run itself is running."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping

from deepcluster_core.errors import ConfigError
from stages.runs.compute import ComputeConfig
from stages.runs.launch.launcher import RANK_MODULE, Launch
from stages.runs.machine import check_has_many_gpus

FIRST_PORT, NUM_PORTS = 20_000, 20_000
"""The ports from which each launch takes one. They lie below those that Linux gives to clients."""


def num_tasks() -> int | None:
    """Return the number of tasks of the allocation; None outside one."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    text = os.environ.get("SLURM_NTASKS") or os.environ.get("SLURM_NPROCS") or "1"
    return int(text) if text.isdecimal() else 1


class Srun:
    """srun. Its processes learn their numbers from Slurm's variables."""

    def default_ranks(self, compute: ComputeConfig, device: str) -> int:
        """Return the number of tasks of the allocation."""
        return num_tasks() or 1

    def check(self, compute: ComputeConfig, num_ranks: int, device: str) -> None:
        """Check that this is one process in an allocation with enough tasks."""
        allocated = num_tasks()
        if allocated is None:
            raise ConfigError(
                "compute.launcher: srun needs a Slurm allocation, and this process is in none.\n"
                "  Fix: start deepcluster by sbatch or in salloc, or leave compute.launcher out."
            )
        if shutil.which("srun") is None:
            raise ConfigError(
                "compute.launcher: the command srun is not in PATH.\n"
                "  Fix: add the folder of Slurm's commands to PATH, often by `module load slurm`."
            )
        in_step = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
        if in_step != "1":
            raise ConfigError(
                f"compute.launcher: srun has started {in_step} processes of deepcluster, which "
                f"would all do the same.\n"
                f"  Fix: write `deepcluster run …` without srun into the batch script; it calls "
                f"srun for each stage itself."
            )
        if num_ranks > allocated:
            raise ConfigError(
                f"compute.ranks: {num_ranks} ranks in a Slurm allocation of {allocated} tasks.\n"
                f"  Fix: --set compute.ranks=auto, or ask Slurm for more with --ntasks."
            )
        check_has_many_gpus(num_ranks, device)

    def ranks_here(self, compute: ComputeConfig, num_ranks: int) -> int:
        """Return the largest number of tasks of a node."""
        return min(num_ranks, max(tasks_per_node(os.environ.get("SLURM_TASKS_PER_NODE", "1"))))

    def spans_machines(self, compute: ComputeConfig) -> bool:
        """Return True, even if all tasks of this allocation are on one node."""
        return True

    def remark(self, compute: ComputeConfig) -> None:
        """Return None."""

    def store(self, launch: Launch) -> str:
        """Return a port of the first node, which differs from launch to launch."""
        number = int(launch.folder.name.rpartition("-")[2], 16)
        job = int(os.environ["SLURM_JOB_ID"])
        port = FIRST_PORT + (job * 31 + number) % NUM_PORTS
        return f"tcp://{first_node()}:{port}"

    def announce(self, launch: Launch) -> None:
        """Do nothing: srun starts processes on all nodes."""

    def command(self, launch: Launch) -> list[str]:
        """Return the command of the step."""
        # Without the number that a batch script may have exported for another program.
        rank = ["env", "--unset=RANK", sys.executable, "-m", RANK_MODULE, str(launch.job_file)]
        return [
            "srun",
            # All variables, also where the job was submitted without any.
            "--export=ALL",
            f"--ntasks={launch.num_ranks}",
            # If a rank fails, Slurm ends the others.
            "--kill-on-bad-exit=1",
            f"--job-name={launch.folder.name}",
            *_cores(launch.compute),
            *rank,
        ]

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Return nothing: Slurm passes the variables of the run on."""
        return {}


def _cores(compute: ComputeConfig) -> list[str]:
    """Return the option for the cores of a task, which only old versions take from sbatch."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    return [f"--cpus-per-task={cores}"] if cores else []


def tasks_per_node(text: str) -> list[int]:
    """Return the tasks of each node from `SLURM_TASKS_PER_NODE`, such as `2(x3),1`."""
    tasks: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is not None:
            tasks += [int(found[1])] * int(found[2] or 1)
    return tasks or [1]


def first_node() -> str:
    """Return the name of the first node of the allocation.

    Raises:
        ConfigError: Slurm does not say.
    """
    listed = os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST") or ""
    if shutil.which("scontrol") is not None:
        found = subprocess.run(  # noqa: S603  our own arguments
            ["scontrol", "show", "hostnames", listed],  # noqa: S607  the user's Slurm
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        names = found.stdout.split()
        if names:
            return names[0]
    name = first_of(listed)
    if not name:
        raise ConfigError(
            "compute.launcher: Slurm does not name the nodes of this allocation in "
            "SLURM_JOB_NODELIST.\n"
            "  Fix: start deepcluster by sbatch or in salloc."
        )
    return name


def first_of(listed: str) -> str:
    """Return the first name of a list of nodes in Slurm's notation, such as `node[07-09,12],login`.

    Each bracket stands for numbers or ranges; the first name has the first number of each.
    """
    # Commas in brackets separate numbers, others separate names.
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", listed)
    name = first[0] if first else ""
    return re.sub(r"\[(\d+)[^\]]*\]", lambda found: found[1], name)
