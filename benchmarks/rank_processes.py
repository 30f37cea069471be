"""Start ranks for a benchmark: bound to cores, in networks and control groups of their own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import ENVIRONMENT
from benchmarks.harness import BenchmarkError, Figures
from benchmarks.machine import ROOT

GROUPS = Path("/sys/fs/cgroup/memory")
"""Where version 1 of control groups has the limits of memory."""
ADDRESSES = ("10.199.77.1", "10.199.77.2")
PORT = 29_577


class Link:
    """Two networks, `deepcluster-bench-0` and `-1`, with a cable between them; needs root."""

    def __init__(self, rate: str) -> None:
        """Describe the cable.

        Args:
            rate: what it lets through in each direction, in the words of `tc`.
        """
        self._rate = rate
        self.names = [f"deepcluster-bench-{number}" for number in range(2)]

    def __enter__(self) -> Self:
        for name in self.names:
            _ip("netns", "add", name)
        first, second = self.names
        cable = ["link", "add", "cable", "netns", first, "type", "veth"]
        _ip(*cable, "peer", "name", "cable", "netns", second)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            limit = ["rate", self._rate, "burst", "256kb", "latency", "100ms"]
            _ip("netns", "exec", name, "tc", "qdisc", "add", "dev", "cable", "root", "tbf", *limit)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in self.names:
            _ip("netns", "delete", name)

    def num_bytes(self) -> int:
        """Return the bytes that have gone through the cable, in both directions together."""
        counter = "/sys/class/net/cable/statistics/tx_bytes"
        total = 0
        for name in self.names:
            read = ["ip", "netns", "exec", name, "cat", counter]
            done = subprocess.run(read, capture_output=True, text=True, check=True)  # noqa: S603
            total += int(done.stdout)
        return total


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: S603, S607


def can_make_networks() -> bool:
    """Return whether this process may make networks, and `ip` and `tc` are installed."""
    try:
        with Link("1gbit"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def can_limit() -> bool:
    """Return whether this process may make control groups with a limit of memory."""
    return os.access(GROUPS, os.W_OK) and (GROUPS / "memory.limit_in_bytes").exists()


@contextmanager
def limited(num_bytes: int, *, num_groups: int) -> Iterator[list[Path]]:
    """Yield control groups that have so much memory each; none if they cannot be made."""
    groups: list[Path] = []
    if can_limit():
        for number in range(num_groups):
            group = GROUPS / f"deepcluster-bench-{os.getpid()}-{number}"
            group.mkdir()
            (group / "memory.limit_in_bytes").write_text(str(num_bytes))
            groups.append(group)
    try:
        yield groups
    finally:
        for group in groups:
            group.rmdir()


def run_ranks(
    function: str,
    arguments: Mapping[str, Any],
    *,
    size: int,
    folder: Path,
    link: Link | None = None,
    groups: Sequence[Path] = (),
) -> Figures:
    """Run a function of `benchmarks.ranks_sides` as `size` ranks.

    Args:
        function: its name.
        arguments: its arguments, as JSON values.
        size: number of ranks, which are bound to as many cores.
        folder: folder for temporary files.
        link: networks in which the ranks run, one in each; None for the loopback interface.
        groups: control groups of the ranks, one for each; none for no limits.

    Returns:
        The figures of the first rank; but `private_bytes` is the largest of any rank, and
        `moved_bytes` what all ranks have sent.

    Raises:
        BenchmarkError: a rank failed; its output is on stderr.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own:
        store = f"file://{own}/store" if link is None else f"tcp://{ADDRESSES[0]}:{PORT}"
        processes: list[subprocess.Popen[bytes]] = []
        for rank in range(size):
            answer = f"{own}/{rank}.json"
            group = str(groups[rank]) if groups else None
            place = {"rank": rank, "size": size, "store": store, "answer": answer, "group": group}
            command = [sys.executable, "-m", "benchmarks.ranks_sides", function]
            command += [json.dumps(arguments), json.dumps(place)]
            prefix = ["taskset", "--cpu-list", str(rank)]
            if link is not None:
                prefix = ["ip", "netns", "exec", link.names[rank], *prefix]
            interface = "lo" if link is None else "cable"
            environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface}
            processes.append(subprocess.Popen([*prefix, *command], cwd=ROOT, env=environment))  # noqa: S603
        codes = [process.wait() for process in processes]
        if any(codes):
            raise BenchmarkError(f"{function} on {size} ranks: exit codes {codes}.")
        found = [json.loads(Path(own, f"{rank}.json").read_text()) for rank in range(size)]
    private_bytes = max(figures["private_bytes"] for figures in found)
    moved_bytes = sum(figures["moved_bytes"] for figures in found)
    return {**found[0], "private_bytes": private_bytes, "moved_bytes": moved_bytes}
