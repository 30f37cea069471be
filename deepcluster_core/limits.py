"""Memory and processors available to this process, within the limits of its container.

Containers, batch systems and systemd limit a process by control groups. Groups are nested, and the
limits of all groups above the process's own apply as well. Their file system has two versions; a
machine may use both at once, each with a part of the controllers. The files in `/proc/self` show
where the groups of the process are mounted. The module uses only the standard library, and finds
no limits on systems without control groups.
"""

import math
import os
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
NO_LIMIT = 1 << 60
"""Limits from here on mean no limit: version 1 then writes a huge multiple of the page size."""
UNKNOWN = 1 << 62
"""Available memory where it cannot be determined."""


def available_memory() -> int:
    """Return the number of bytes of main memory that this process may still allocate."""
    found = list(_of_groups())
    of_system = _of_system()
    if of_system is not None:
        found.append(of_system)
    return min(found, default=UNKNOWN)


def num_memory_kills() -> int:
    """Return how many processes the kernel has ended because the memory of a group was full.

    Counted since the start of the groups that this process is in; 0 where nothing is counted.
    """
    total = 0
    for group in _groups("memory"):
        name = "memory.events" if group.version == 2 else "memory.oom_control"
        found = re.search(r"^oom_kill (\d+)$", _text(group.folder / name), re.M)
        total += int(found[1]) if found else 0
    return total


def num_cores() -> int:
    """Return how many cores this process may use: at least 1.

    A process may be allowed on all cores, but only for part of the time. A quota of 2.5 cores
    counts as 3.
    """
    allowed = _allowed_cores()
    quota = cpu_quota()
    if quota is None:
        return allowed
    return max(1, min(allowed, math.ceil(quota)))


def cpu_quota() -> float | None:
    """Return the quota of processor time in cores, such as 2.5; None without a quota."""
    quotas = [_quota_of(group) for group in _groups("cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit the threads of numerical libraries to the processor time available.

    By default they start one thread for each core that the process may run on. Under a quota, all
    of these threads then stall together for the rest of each tenth of a second.

    Call it before numpy, torch or faiss is imported: it sets OMP_NUM_THREADS, which both OpenMP
    runtimes that they ship read at start. An existing value is kept. Without a quota nothing is
    set, because on a CPU a different number of threads changes the last digits of results.
    """
    if num_cores() < _allowed_cores():
        environment.setdefault("OMP_NUM_THREADS", str(num_cores()))


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _of_system() -> int | None:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(PROC / "meminfo"), re.MULTILINE)
    if found is None:  # not Linux
        return None
    return int(found[1]) * 1024


def _of_groups() -> Iterator[int]:
    """Yield the bytes left under the limit of each group; its file cache counts as free."""
    for group in _groups("memory"):
        limit_files, usage_file = _MEMORY_FILES[group.version]
        used = _number(group.folder / usage_file)
        statistics_text = _text(group.folder / "memory.stat")
        statistics = dict(re.findall(r"^(\w+) (\d+)$", statistics_text, re.M))
        # Version 1 also reports the lowest limit of the groups above, which may be out of sight.
        limit = int(statistics.get("hierarchical_memory_limit", NO_LIMIT))
        for name in limit_files:
            file_limit = _number(group.folder / name)
            if file_limit is not None:
                limit = min(limit, file_limit)
        if used is None or limit >= NO_LIMIT:
            continue
        # The kernel drops these cached pages when memory becomes short.
        cache_name = "inactive_file" if group.version == 2 else "total_inactive_file"
        cached = int(statistics.get(cache_name, 0))
        not_cached = max(0, used - cached)
        yield max(0, limit - not_cached)


_MEMORY_FILES = {
    # Above memory.high a process is not killed, but slowed down until it hardly moves.
    2: (("memory.max", "memory.high"), "memory.current"),
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes"),
}
"""For each version, the files that hold limits and the file that holds the usage."""


@dataclass(frozen=True)
class _Group:
    folder: Path
    version: int


def _groups(controller: str) -> Iterator[_Group]:
    """Yield the groups whose limits of a controller apply to this process, its own group first."""
    own_paths = _own_paths(controller)
    for line in _text(PROC / "self" / "mountinfo").splitlines():
        # A line reads: id parent device root mount-point options … - type source super-options
        mount, _, file_system = line.partition(" - ")
        fields = mount.split()
        kind, *options = file_system.split() or ("",)
        if len(fields) < 5 or kind not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind == "cgroup2" else 1
        if version not in own_paths:
            continue
        # Version 1 mounts each controller by itself and names it in the super options.
        if version == 1 and controller not in options[-1].split(","):
            continue
        mounted = Path(_unescaped(fields[3]))
        top = Path(_unescaped(fields[4]))
        for folder in _upwards(top, own_paths[version], mounted):
            yield _Group(folder, version)


def _own_paths(controller: str) -> dict[int, Path]:
    """Return the path of the process's group by version, as the kernel reports it."""
    paths: dict[int, Path] = {}
    for line in _text(PROC / "self" / "cgroup").splitlines():
        # A line reads number:controllers:path; that of version 2 is 0::path.
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            paths[1] = Path("/", path)
        elif number == "0" and not controllers:
            paths[2] = Path("/", path)
    return paths


def _upwards(top: Path, own: Path, mounted: Path) -> Iterator[Path]:
    """Yield the folder of a group and all folders above it, up to the mount point.

    Args:
        top: mount point of the file system.
        own: path of the group, from the root of all groups or from the root that a container sees.
        mounted: path of the group that is mounted at `top`; in a container often the group itself.
    """
    folder = top
    below_top = top / own.relative_to("/")
    if own.is_relative_to(mounted):
        folder = top / own.relative_to(mounted)
    elif below_top.is_dir():
        folder = below_top
    if ".." in folder.parts or not folder.is_dir():  # the path only exists outside the container
        folder = top
    while True:
        yield folder
        if folder == top:
            return
        folder = folder.parent


def _quota_of(group: _Group) -> float | None:
    """Return the quota of a group in cores; None without one."""
    if group.version == 2:
        numbers = _text(group.folder / "cpu.max").split()
    else:
        numbers = [
            _text(group.folder / "cpu.cfs_quota_us"),
            _text(group.folder / "cpu.cfs_period_us"),
        ]
    try:
        quota, period = map(int, numbers)
    except ValueError:  # "max" means no quota; empty means that the files are missing
        return None
    if quota <= 0 or period <= 0:  # version 1 writes -1 for no quota
        return None
    return quota / period


def _number(file: Path) -> int | None:
    """Return the number in a file; None if the file is missing or holds no number."""
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    """Return the text of a file; an empty text if it cannot be read."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    r"""Return a path from mountinfo with its octal escapes decoded: `\040` is a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
