"""What a launcher is: it runs one command R times, and tells each process its number."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stages.runs.compute import ComputeConfig


@dataclass(frozen=True)
class Launch:
    """One stage that is about to run on several ranks."""

    compute: ComputeConfig
    num_ranks: int
    folder: Path
    """Folder of messages; all machines see it."""
    local_folder: Path
    """Folder on a disk of this machine."""
    job_file: Path


class Launcher(Protocol):
    """A way to start ranks. The checks are made before a run starts anything."""

    def default_ranks(self, compute: ComputeConfig, device: str) -> int:
        """Return the number of ranks that `compute.ranks: auto` means."""
        ...

    def check(self, compute: ComputeConfig, num_ranks: int, device: str) -> None:
        """Check whether so many ranks can be started here.

        Raises:
            ConfigError: they cannot.
        """
        ...

    def ranks_here(self, compute: ComputeConfig, num_ranks: int) -> int:
        """Return how many of the ranks run on a machine, which share its cores and memory."""
        ...

    def spans_machines(self, compute: ComputeConfig) -> bool:
        """Return whether ranks can run on other machines than the run itself."""
        ...

    def remark(self, compute: ComputeConfig) -> str | None:
        """Return what a person should know before the first stage runs; None if nothing."""
        ...

    def store(self, launch: Launch) -> str:
        """Return where the ranks find each other, see `Surroundings.store`."""
        ...

    def announce(self, launch: Launch) -> None:
        """Tell whoever has to know that a launch begins; its messages exist."""
        ...

    def command(self, launch: Launch) -> list[str]:
        """Return the command that starts the ranks and ends after them."""
        ...

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Return the variables to set for the command."""
        ...


PROGRAM = Path(__file__).parents[3]
"""The folder that holds the packages of this program."""


def program_environment() -> dict[str, str]:
    """Return variables with which a process imports this program, and nothing else of its name."""
    paths = [str(PROGRAM)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


RANK_MODULE = "stages.rank"
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
ON_LOOPBACK = {
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
    "MASTER_ADDR": "127.0.0.1",
}
"""Variables with which ranks on one machine listen on its loopback interface only."""
