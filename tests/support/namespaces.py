"""Two machines on one: network namespaces that only a virtual cable connects."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

FIRST, SECOND = f"dc-first-{os.getpid()}", f"dc-second-{os.getpid()}"
CABLE = (f"dcv{os.getpid() % 100_000}a", f"dcv{os.getpid() % 100_000}b")
HOST = "10.199.7.1"
ADDRESS = f"{HOST}:29500"
JOIN = (
    "import sys; from pathlib import Path\n"
    "from stages.runs.folder import RunFolder\n"
    "from stages.runs.launch.join import join\n"
    "join(RunFolder(Path(sys.argv[1])), 1, lambda line: print(line, flush=True))\n"
)
"""A program that takes part in a run as its second machine, as `deepcluster join` does."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def two_machines() -> Iterator[None]:
    """Connect two namespaces; skip the test where that is not allowed."""
    try:
        ip("netns", "add", FIRST)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        ip("netns", "add", SECOND)
        first, second = CABLE
        ip("link", "add", first, "type", "veth", "peer", "name", second)
        for namespace, link, address in (
            (FIRST, first, f"{HOST}/24"),
            (SECOND, second, "10.199.7.2/24"),
        ):
            ip("link", "set", link, "netns", namespace)
            ip("-n", namespace, "addr", "add", address, "dev", link)
            ip("-n", namespace, "link", "set", link, "up")
            ip("-n", namespace, "link", "set", "lo", "up")
        yield
    finally:
        ip("netns", "del", FIRST)
        subprocess.run(["ip", "netns", "del", SECOND], check=False, capture_output=True)


def limit_rate(rate: str) -> None:
    """Limit the cable, in both directions, to a rate such as `1gbit`."""
    for namespace, link in zip((FIRST, SECOND), CABLE, strict=True):
        limit = ["rate", rate, "burst", "256k", "latency", "50ms"]
        command = ["tc", "-n", namespace, "qdisc", "replace", "dev", link, "root", "tbf", *limit]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no limits of rates here: {error}")


def inside(namespace: str) -> list[str]:
    """Return the beginning of a command that runs in a namespace, where the host has its name."""
    named = f'hostname "{namespace}" && exec "$@"'
    return ["ip", "netns", "exec", namespace, "unshare", "--uts", "sh", "-c", named, "sh"]
