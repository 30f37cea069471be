"""The actor that Ray places for each rank: it starts the rank's process on its machine."""
# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# Ray is an optional dependency.

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.runs.launch.launcher import RANK_MODULE
from stages.runs.launch.lifetime import PARENT
from stages.runs.launch.network import interface_towards


@dataclass(frozen=True)
class Home:
    """Where Ray has placed an actor."""

    host: str
    """Name of the machine."""
    address: str
    """Address under which other machines of the cluster reach it."""
    gpus: tuple[str, ...]
    """The GPUs of the actor, as CUDA_VISIBLE_DEVICES names them."""


class RankActor:
    """Starts a rank, and ends it when Ray ends the actor.

    No method waits for the rank. So all of them run in the main thread of Ray's process, and the
    kernel, which ends a rank with the thread that has started it, does so with the process.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def home(self) -> Home:
        """Return where this actor runs."""
        import ray  # noqa: PLC0415  optional

        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return Home(
            host=socket.gethostname(),
            address=ray.util.get_node_ip_address(),
            gpus=tuple(number for number in visible.split(",") if number),
        )

    def free_port(self) -> int:
        """Return a port of this machine on which nothing listens at the moment."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return probe.getsockname()[1]

    def start(
        self, job_file: Path, log: Path, variables: Mapping[str, str], towards: str | None
    ) -> None:
        """Start the rank.

        Args:
            job_file: what to do.
            log: receives what the rank prints.
            variables: environment variables of the rank, besides those of this process.
            towards: address of the first rank, whose interface the exchanges use. None if all ranks
                are on this machine.
        """
        # A rank ends when this process does.
        environment = {**os.environ, **variables, PARENT: str(os.getpid())}
        interface = None if towards is None else interface_towards(towards, 1)
        if interface is not None:
            environment = {
                "GLOO_SOCKET_IFNAME": interface,
                "NCCL_SOCKET_IFNAME": interface,
                **environment,
            }
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603  our own command
                [sys.executable, "-m", RANK_MODULE, str(job_file)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def exit_code(self) -> int | None:
        """Return the exit code of the rank, negative for a signal; None as long as it runs."""
        assert self._process is not None
        return self._process.poll()

    def kill(self) -> None:
        """End the rank at once, and return when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
