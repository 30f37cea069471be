"""Start ranks with torchrun: on this machine, or on several that a person joins to the run."""

import os
import sys
from collections.abc import Mapping

from deepcluster_core.errors import ConfigError
from stages.runs.compute import ComputeConfig
from stages.runs.launch.board import board_of
from stages.runs.launch.launcher import ON_LOOPBACK, RANK_MODULE, Launch
from stages.runs.launch.network import VARIABLES, interface_towards, names_loopback
from stages.runs.machine import check_gpus, num_gpus


class Torchrun:
    """torchrun, which comes with torch."""

    def default_ranks(self, compute: ComputeConfig, device: str) -> int:
        """Return the number of visible GPUs of all machines, or of machines without any."""
        a_machine = num_gpus() if device == "cuda" else 1
        return a_machine * compute.nodes

    def check(self, compute: ComputeConfig, num_ranks: int, device: str) -> None:
        """Check the GPUs of this machine, and how the ranks are spread over machines."""
        if num_ranks % compute.nodes:
            raise ConfigError(
                f"compute.ranks: {num_ranks} ranks cannot be spread evenly over compute.nodes = "
                f"{compute.nodes}.\n"
                f"  Fix: set a multiple of {compute.nodes}."
            )
        if compute.nodes > 1 and compute.address is None:
            raise ConfigError(
                f"compute.address: {compute.nodes} machines need the address of the first one.\n"
                f"  Fix: --set compute.address=HOST:PORT, a port that the others can reach."
            )
        if compute.nodes > 1 and compute.address is not None and names_loopback(compute.address):
            raise ConfigError(
                f"compute.address: on this machine, {compute.address} is the loopback interface, "
                f"which no other machine reaches.\n"
                f"  Cause: an entry such as `127.0.1.1 NAME` in /etc/hosts\n"
                f"  Fix:   give the number of this machine's address in place of its name."
            )
        check_gpus(self.ranks_here(compute, num_ranks), device)

    def ranks_here(self, compute: ComputeConfig, num_ranks: int) -> int:
        """Return the equal share of each machine."""
        return num_ranks // compute.nodes

    def spans_machines(self, compute: ComputeConfig) -> bool:
        """Return whether there are several machines."""
        return compute.nodes > 1

    def remark(self, compute: ComputeConfig) -> None:
        """Return None."""

    def store(self, launch: Launch) -> str:
        """Return a file on one machine, and a port of the first of several."""
        if launch.compute.nodes == 1:
            # torch's other store listens on all interfaces.
            return f"file://{launch.local_folder / 'store'}"
        return f"tcp://{launch.compute.address}"

    def announce(self, launch: Launch) -> None:
        """Tell the other machines, if there are any."""
        if launch.compute.nodes > 1:
            board_of(launch.folder.parent).announce(launch)

    def command(self, launch: Launch) -> list[str]:
        """Return the command of torchrun's agent on this machine, the first one."""
        return agent_command(launch, node=0)

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Return what keeps everything on the loopback interface, or names the one to use."""
        return agent_environment(launch.compute)


def agent_command(launch: Launch, *, node: int) -> list[str]:
    """Return the command of torchrun's agent on one of the machines."""
    compute = launch.compute
    num_here = launch.num_ranks // compute.nodes
    agent = [sys.executable, "-m", "stages.runs.launch.agent", str(launch.folder), str(os.getpid())]
    # An id of its own for each launch, so that agents of an earlier one cannot join.
    common = [f"--nproc-per-node={num_here}", f"--rdzv-id={launch.folder.name}"]
    if compute.nodes == 1:
        place = [
            "--nnodes=1",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={launch.local_folder / 'agents'}",
            "--rdzv-conf=store_type=file",
            "--local-addr=127.0.0.1",
        ]
    else:
        host, port = agents_address(compute)
        place = [
            f"--nnodes={compute.nodes}",
            f"--node-rank={node}",
            f"--master-addr={host}",
            f"--master-port={port}",
        ]
    return [*agent, *common, *place, "-m", RANK_MODULE, str(launch.job_file)]


def agent_environment(compute: ComputeConfig) -> dict[str, str]:
    """Return the variables for an agent and its ranks."""
    if compute.nodes == 1:
        # Otherwise the agent opens a store on all interfaces, in addition to the file.
        return {**ON_LOOPBACK, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    host, port = agents_address(compute)
    interface = interface_towards(host, port)
    if interface is None:
        return {}
    # By default gloo uses the interface of the host's name, which is often the loopback.
    return {name: os.environ.get(name, interface) for name in VARIABLES}


def agents_address(compute: ComputeConfig) -> tuple[str, int]:
    """Return the host and the port of the store of the agents, beside that of the ranks."""
    assert compute.address is not None
    host, _, port = compute.address.rpartition(":")
    return host, int(port) + 1
