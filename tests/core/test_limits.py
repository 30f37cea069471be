"""Memory and processors within control groups, as trees of files that the kernel would show."""

import math
import os
import sys
from pathlib import Path

import pytest

from deepcluster_core import limits
from deepcluster_core.limits import available_memory, cpu_quota, limit_threads, num_cores
from tests.support.control_groups import ControlGroup, control_group

GIB = 1 << 30
V1_UNLIMITED = 9223372036854771712


class Machine:
    """A machine in a folder: `/proc` and the mounted control groups."""

    def __init__(self, root: Path) -> None:
        self.root, self.proc, self.mounts = root, root / "proc", root / "sys"
        self.write("proc/meminfo", f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: 41943040 kB\n")
        self.mounted: list[str] = []

    def write(self, name: str, text: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def mount(
        self, name: str, *, root: str = "/", kind: str = "cgroup2", options: str = "rw"
    ) -> None:
        place = str(self.mounts / name).replace(" ", r"\040")
        number = 30 + len(self.mounted)
        self.mounted.append(f"{number} 23 0:{number} {root} {place} rw,nosuid - {kind} x {options}")
        self.write(
            "proc/self/mountinfo", "\n".join(["1 0 8:1 / / rw - ext4 disk rw", *self.mounted])
        )
        (self.mounts / name).mkdir(parents=True, exist_ok=True)

    def belongs_to(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "\n".join(lines))

    def group(self, name: str, **files: object) -> None:
        """Write the files of a group; `__` stands for a dot in a name."""
        for file, text in files.items():
            self.write(f"sys/{name}/{file.replace('__', '.')}", text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(limits, "PROC", made.proc)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    return made


def v2_memory(limit: object, used: int, cached: int = 0, high: object = "max") -> dict[str, object]:
    return {
        "memory__max": limit,
        "memory__high": high,
        "memory__current": used,
        "memory__stat": f"anon 5\ninactive_file {cached}",
    }


def v1_memory(
    limit: int, used: int, cached: int = 0, above: int = V1_UNLIMITED
) -> dict[str, object]:
    return {
        "memory__limit_in_bytes": limit,
        "memory__usage_in_bytes": used,
        "memory__stat": (
            f"inactive_file 7\nhierarchical_memory_limit {above}\ntotal_inactive_file {cached}"
        ),
    }


def test_available_memory__v2_the_tightest_of_all_groups_above_counts(machine: Machine) -> None:
    machine.mount("cgroup")
    machine.belongs_to("0::/user.slice/job")
    machine.group("cgroup/user.slice/job", **v2_memory("max", GIB))
    machine.group("cgroup/user.slice", **v2_memory(4 * GIB, 3 * GIB, cached=GIB // 2))
    machine.group("cgroup", cpu__stat="usage_usec 1")  # the root has no limits

    assert available_memory() == GIB * 3 // 2

    machine.group("cgroup/user.slice/job", **v2_memory(GIB + 5, GIB))
    assert available_memory() == 5
    machine.group("cgroup/user.slice/job", **v2_memory("max", GIB, high=GIB + 3))
    assert available_memory() == 3, "beyond memory.high a process hardly moves"
    machine.group("cgroup/user.slice/job", **v2_memory(GIB, GIB + 9))
    assert available_memory() == 0, "never negative"


def test_available_memory__v1(machine: Machine) -> None:
    machine.mount("memory", kind="cgroup", options="rw,memory")
    machine.mount("cpu,cpuacct", kind="cgroup", options="rw,cpu,cpuacct")
    machine.belongs_to("4:memory:/docker/abc", "3:cpu,cpuacct:/docker/abc", "0::/")
    machine.group("memory/docker/abc", **v1_memory(2 * GIB, GIB, cached=GIB // 4))
    machine.group("memory/docker", **v1_memory(V1_UNLIMITED, 9 * GIB))

    assert available_memory() == GIB * 5 // 4

    machine.group("memory/docker/abc", **v1_memory(V1_UNLIMITED, GIB, above=GIB + 11))
    assert available_memory() == 11, "a limit above the container, which only the kernel sees"
    machine.group("memory/docker/abc", **v1_memory(V1_UNLIMITED, GIB))
    assert available_memory() == 40 * GIB, "of the machine"


@pytest.mark.parametrize(
    ("root", "own"),
    [
        ("/", "/"),  # a namespace of its own
        ("/docker/abc", "/docker/abc"),  # the group itself is mounted, as Docker does for version 1
        ("/", "/kubepods/pod1/abc"),  # the path of the host, which does not exist inside
        ("/", "/../../abc"),  # of a process that was moved out of its namespace
        ("/docker/abc", "/elsewhere"),
    ],
)
def test_available_memory__in_a_container(root: str, own: str, machine: Machine) -> None:
    machine.mount("my groups", root=root)
    machine.belongs_to(f"0::{own}")
    machine.group("my groups", **v2_memory(GIB, 1000))

    assert available_memory() == GIB - 1000


def test_available_memory__both_versions_at_once(machine: Machine) -> None:
    machine.mount("memory", kind="cgroup", options="rw,memory")
    machine.mount("unified")
    machine.belongs_to("4:memory:/job", "0::/")
    machine.group("memory/job", **v1_memory(GIB, 100))
    machine.group("unified", cgroup__procs="1")

    assert available_memory() == GIB - 100


def test_available_memory__is_that_of_the_machine_where_nothing_is_known(machine: Machine) -> None:
    assert available_memory() == 40 * GIB
    machine.write("proc/self/mountinfo", "nonsense - \n - cgroup2\n1 2 3")
    machine.write("proc/self/cgroup", "::\n0\n")
    assert available_memory() == 40 * GIB
    (machine.proc / "meminfo").unlink()
    assert available_memory() == limits.UNKNOWN


@pytest.mark.parametrize(
    ("text", "quota", "cores"),
    [
        ("max 100000", None, 16),
        ("250000 100000", 2.5, 3),
        ("5000 100000", 0.05, 1),
        ("6400000 100000", 64.0, 16),
        ("200000 50000", 4.0, 4),
        ("", None, 16),
    ],
)
def test_num_cores__v2_quota(text: str, quota: float | None, cores: int, machine: Machine) -> None:
    machine.mount("cgroup")
    machine.belongs_to("0::/job/step")
    machine.group("cgroup/job/step", cpu__max="max 100000")
    machine.group("cgroup/job", cpu__max=text)

    assert cpu_quota() == quota
    assert num_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, 16), (150_000, 2), (0, 16)])
def test_num_cores__v1_quota(quota: int, cores: int, machine: Machine) -> None:
    machine.mount("cpu,cpuacct", kind="cgroup", options="rw,cpuacct,cpu")
    machine.belongs_to("3:cpu,cpuacct:/docker/abc")
    machine.group("cpu,cpuacct/docker/abc", cpu__cfs_quota_us=quota, cpu__cfs_period_us=100_000)
    machine.group("cpu,cpuacct", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)

    assert num_cores() == cores


def test_num_cores__of_a_cpuset(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.mount("cgroup")
    machine.belongs_to("0::/job")
    machine.group("cgroup/job", cpu__max="800000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {4, 7})

    assert num_cores() == 2


def test_limit_threads__only_under_a_quota_and_never_over_what_was_set(machine: Machine) -> None:
    free: dict[str, str] = {}
    limit_threads(free)
    assert free == {}, "the digits of a run without a quota stay as they are"

    machine.mount("cgroup")
    machine.belongs_to("0::/job")
    machine.group("cgroup/job", cpu__max="250000 100000")
    limited, own = {"HOME": "/"}, {"OMP_NUM_THREADS": "7"}
    limit_threads(limited)
    limit_threads(own)
    assert limited == {"HOME": "/", "OMP_NUM_THREADS": "3"}
    assert own == {"OMP_NUM_THREADS": "7"}


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="not Linux")
def test_available_memory__of_this_machine_is_within_what_the_kernel_says() -> None:
    """Only reads: a test has no business in the groups of the machine that it runs on."""
    groups = list(limits._groups("memory"))  # pyright: ignore[reportPrivateUsage]

    assert all(group.folder.is_dir() for group in groups)
    assert 0 < available_memory() < limits.UNKNOWN
    assert 1 <= num_cores() <= (os.cpu_count() or 1)


# Real groups of version 1, of a child process alone


def of_child(group: ControlGroup) -> list[str]:
    """Return the available memory, the quota and the cores that a process in the group finds."""
    program = "from deepcluster_core.limits import *; print(available_memory(), cpu_quota())"
    program += "; print(num_cores())"
    ended = group.run([sys.executable, "-c", program])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_available_memory__of_a_real_v1_group() -> None:
    limit = GIB // 4
    with control_group("memory", limit_in_bytes=limit) as group:
        available, *_ = of_child(group)

    assert limit // 2 < int(available) < limit, "less what the interpreter itself uses"


@pytest.mark.parametrize(("quota", "expected"), [(50_000, 0.5), (150_000, 1.5)])
def test_cpu_quota__of_a_real_v1_group(quota: int, expected: float) -> None:
    with control_group("cpu", cfs_period_us=100_000, cfs_quota_us=quota) as group:
        _, found, cores = of_child(group)

    assert float(found) == expected
    assert int(cores) == min(math.ceil(expected), len(os.sched_getaffinity(0)))
