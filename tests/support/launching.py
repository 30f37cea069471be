"""A process that launches the stage of `ranked_stage`, as a run does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from deepcluster_core.context import Context
from deepcluster_core.errors import DeepClusterError
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.launch.lifetime import start_time
from stages.runs.launch.placement import Placement
from tests.support.ranked_stage import notes, ranked_job
from tests.support.timeouts import WITHIN_S

ROOT = Path(__file__).parents[2]
USER_ERROR = 2


def start(out: Path, act: str, **compute: object) -> "subprocess.Popen[str]":
    """Start a process that launches the stage on two ranks."""
    settings = {"device": "cpu", "ranks": 2, **compute}
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(settings), out, act],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C is ignored by what a shell starts in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def when_ranks_run(process: "subprocess.Popen[str]", out: Path, num_ranks: int = 2) -> list[int]:
    """Wait until all ranks have begun; return their processes and that of their parent."""
    wait_for(lambda: len(notes(out)) == num_ranks or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0]
    found = notes(out)
    return [*(int(note[1]) for note in found), int(found[0][3])]


def wait_for(condition: Callable[[], bool], *, within_s: float = WITHIN_S) -> None:
    """Wait until something holds, and fail if it takes too long."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def all_end(processes: Iterable[int], *, within_s: float = 30) -> None:
    """Wait until none of the processes lives."""
    remaining = list(processes)
    wait_for(lambda: not any(start_time(process) for process in remaining), within_s=within_s)


def listening(processes: Iterable[int]) -> list[str]:
    """Return the addresses, as the kernel writes them, on which processes listen for TCP."""
    found: list[str] = []
    for process in processes:
        sockets: set[str] = set()
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(file))  # noqa: PTH115  not a path
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
            for line in lines:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                    found.append(fields[1].partition(":")[0])
    return found


def messages_of(rank: int) -> Path:
    """Return the folder of messages of a rank that runs."""
    command = Path(f"/proc/{rank}/cmdline").read_text().rstrip("\0")
    return Path(command.rpartition("\0")[2]).parent


LOOPBACK = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}"
"""127.0.0.1 as the kernel writes it."""


def main(settings: str, out: str, act: str, rank: str = "0") -> None:
    """Launch the stage, in which a rank does something, and end like the command."""
    compute = ComputeConfig(**json.loads(settings))
    placement = Placement.of(RunFolder(Path(out).with_name("run")), compute, "cpu")
    try:
        placement.run(ranked_job(Path(out), act, int(rank)), Context(seed=31, epoch=0, workers=1))
    except DeepClusterError as error:
        print(error)  # noqa: T201
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main(*sys.argv[1:])
