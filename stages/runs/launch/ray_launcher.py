"""Start ranks with Ray: on a cluster that is running, or else on a small one on this machine.

This process never imports ray, which starts threads: `ray_cluster` looks at the cluster and
`ray_driver` uses it, each in a process of its own.
"""

import importlib.metadata
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deepcluster_core.errors import ConfigError
from stages.runs.compute import ComputeConfig
from stages.runs.launch.launcher import ON_LOOPBACK, Launch, program_environment
from stages.runs.machine import check_gpus, num_gpus, usable_device

LOCAL = "local"
"""Ray's own word for a cluster that is started for one program, on this machine."""
CONNECTS_WITHIN_S = 10.0
ANSWERS_WITHIN_S = 120.0


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, and what Ray may use of it."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that is running."""

    address: str
    nodes: tuple[Node, ...]

    def room_for(self, compute: ComputeConfig, device: str) -> list[int]:
        """Return how many ranks each machine has room for, without those that have none."""
        gpus = device.startswith("cuda")
        rooms = [node.cpus // cpus_of_rank(compute) for node in self.nodes]
        if gpus:
            rooms = [min(room, node.gpus) for room, node in zip(rooms, self.nodes, strict=True)]
        return [room for room in rooms if room]


class Ray:
    """Ray. A driver places one actor for each rank, which starts the rank as a process.

    Ray Train's TorchTrainer is not used: it joins the processes itself, wants a folder for its
    results, and cannot start a command, so that a rank would be one of Ray's own processes, with
    Ray's signal handlers, threads and logs.
    """

    def default_ranks(self, compute: ComputeConfig, device: str) -> int:
        """Return the number of GPUs of the cluster, or of its machines if a CPU is used."""
        cluster = find_cluster()
        if cluster is None:
            return num_gpus() if device == "cuda" else 1
        rooms = cluster.room_for(compute, device)
        return max(1, sum(rooms) if device == "cuda" else len(rooms))

    def check(self, compute: ComputeConfig, num_ranks: int, device: str) -> None:
        """Check that Ray is installed, and that the cluster has room for the ranks."""
        if compute.nodes > 1 or compute.address is not None:
            raise ConfigError(
                "compute.launcher: Ray itself decides on which machines the ranks run; "
                "compute.nodes and compute.address belong to torchrun.\n"
                "  Fix: leave both out. RAY_ADDRESS=HOST:PORT in the environment names a cluster."
            )
        cluster = find_cluster()
        if cluster is None:
            check_gpus(num_ranks, device)
            return
        if device not in ("cpu", "cuda"):
            raise ConfigError(
                f"compute.device: {device} is one GPU of this machine, but Ray chooses the GPUs.\n"
                f"  Fix: --set compute.device=cuda, or cpu."
            )
        room = sum(cluster.room_for(compute, device))
        if num_ranks > room:
            raise ConfigError(
                f"compute.ranks: {num_ranks} ranks, but the Ray cluster at {cluster.address} has "
                f"room for {room}: a rank takes {_needs(compute, device)}.\n"
                f"  Fix: set fewer compute.ranks, or start Ray on more machines first "
                f"(`ray status` lists them)."
            )

    def ranks_here(self, compute: ComputeConfig, num_ranks: int) -> int:
        """Return the largest number of ranks that a machine is expected to have."""
        cluster = find_cluster()
        if cluster is None:
            return num_ranks
        device = usable_device(compute.device)
        rooms = cluster.room_for(compute, device)
        if device == "cpu":  # spread over the machines
            return -(-num_ranks // len(rooms))
        return min(num_ranks, max(rooms))

    def spans_machines(self, compute: ComputeConfig) -> bool:
        """Return whether there is a cluster, even if all ranks are on this machine."""
        return find_cluster() is not None

    def remark(self, compute: ComputeConfig) -> str | None:
        """Return that a cluster can be reached by others, or that there is none."""
        cluster = find_cluster()
        if cluster is None:
            return (
                "no Ray cluster is running here, and RAY_ADDRESS names none: each stage starts one "
                "on this machine, on its loopback interface only"
            )
        if os.environ.get("RAY_AUTH_MODE") == "token":
            return None
        return (
            f"the Ray cluster at {cluster.address} listens on all network interfaces of its "
            f"machines, and whoever reaches them can run programs there.\n"
            f"  Use it only in a network that you trust, or start it with RAY_AUTH_MODE=token."
        )

    def store(self, launch: Launch) -> str:
        """Return a file on one machine; on a cluster, the driver decides when it has placed ranks.

        It then replaces this value in the job file.
        """
        if find_cluster() is None:
            return f"file://{launch.local_folder / 'store'}"
        return "tcp://"

    def announce(self, launch: Launch) -> None:
        """Do nothing: Ray starts processes on all machines."""

    def command(self, launch: Launch) -> list[str]:
        """Return the command of the driver."""
        cluster = find_cluster()
        return [
            sys.executable,
            "-m",
            "stages.runs.launch.ray_driver",
            str(launch.folder),
            str(os.getpid()),
            LOCAL if cluster is None else cluster.address,
            str(launch.local_folder),
            str(cpus_of_rank(launch.compute)),
        ]

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Return what keeps a cluster on this machine to itself; nothing for another cluster."""
        if find_cluster() is not None:
            return {}
        return {
            **ON_LOOPBACK,
            # The only switch with which all of Ray's processes use 127.0.0.1, on Linux as well.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Other people on this machine reach the loopback interface too.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }


def cpus_of_rank(compute: ComputeConfig) -> int:
    """Return how many of its CPUs Ray reserves for a rank."""
    return compute.threads or 1


def _needs(compute: ComputeConfig, device: str) -> str:
    cpus = cpus_of_rank(compute)
    gpu = " and 1 GPU" if device == "cuda" else ""
    return f"{cpus} CPU{'s' if cpus > 1 else ''} of one machine{gpu}"


def find_cluster() -> Cluster | None:
    """Return the Ray cluster that RAY_ADDRESS names, or that `ray start` has started here.

    Returns:
        The cluster as it was when this process looked first. None if there is none; RAY_ADDRESS may
        be `local` to ask for that.

    Raises:
        ConfigError: Ray is not installed, or the cluster does not answer.
    """
    if not is_installed():
        raise ConfigError(
            "compute.launcher: Ray is not installed.\n"
            '  Fix: pip install "deepcluster-pipeline[ray]", or another compute.launcher.'
        )
    address = os.environ.get("RAY_ADDRESS") or "auto"
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS: {address} is an address for programs outside the cluster.\n"
            f"  Fix: start deepcluster on a machine of the cluster, with RAY_ADDRESS=HOST:PORT or "
            f"without it."
        )
    if address == "auto":
        address = _started_here() or LOCAL
    return None if address == LOCAL else _survey(address)


def _started_here() -> str | None:
    """Return the address of the cluster that `ray start` has started, or joined, on this machine.

    It is read from Ray's file, because `auto`, for Ray itself, can mean any cluster of this
    machine: also one that another run has started for itself, and that ends with a stage of it.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


def is_installed() -> bool:
    """Return whether Ray is installed. A folder that happens to be called `ray` does not count."""
    try:
        importlib.metadata.distribution("ray")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@cache
def _survey(address: str) -> Cluster:
    """Ask Ray about a cluster, in another process."""
    host, _, port = address.rpartition(":")
    try:
        # Ray itself would try again for minutes.
        socket.create_connection((host, int(port)), CONNECTS_WITHIN_S).close()
    except (OSError, ValueError) as error:
        raise _no_answer(address, str(error)) from error
    try:
        asked = subprocess.run(  # noqa: S603  our own command
            [sys.executable, "-m", "stages.runs.launch.ray_cluster", address],
            env=program_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWERS_WITHIN_S,
        )
    except subprocess.TimeoutExpired as error:
        raise _no_answer(address, f"it has not answered within {ANSWERS_WITHIN_S:g} s") from error
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or ["no reason is given"]
        raise _no_answer(address, lines[-1])
    nodes = json.loads(asked.stdout.splitlines()[-1])
    return Cluster(address, tuple(Node(**node) for node in nodes))


def _no_answer(address: str, cause: str) -> ConfigError:
    return ConfigError(
        f"compute.launcher: the Ray cluster at {address} cannot be used.\n"
        f"  Cause: {cause}\n"
        f"  Fix:   `ray status --address {address}` must list its machines. RAY_ADDRESS=local "
        f"computes on this machine alone."
    )
