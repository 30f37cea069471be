"""What this process may take of the machine: memory and processors, within its container.

Containers, batch systems and systemd limit a process by control groups, which lie in each other:
the limits of all groups above the process's own count as well. There are two versions of their
file system, and a machine may have both at once, with some controllers in either. What the kernel
says of the process in `/proc/self` leads to the folders, wherever they are mounted. Needs no more
than Python, and does not fail where there is nothing of the kind.
"""

import math
import os
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
NO_LIMIT = 1 << 60
"""Version 1 writes the greatest multiple of a page that it can count, where there is no limit."""
UNKNOWN = 1 << 62


def available_memory() -> int:
    """Return the bytes of main memory that this process may still take."""
    known = [_of_system(), *_of_groups()]
    return min((value for value in known if value is not None), default=UNKNOWN)


def num_cores() -> int:
    """Return how many cores this process may use: at least 1.

    A process may be allowed to run on all cores, and yet for a part of the time only: a share of
    2.5 cores is counted as 3.
    """
    allowed, quota = _allowed_cores(), cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota() -> float | None:
    """Return the share of processor time in cores, such as 2.5; None where all may be used."""
    quotas = [quota for group in _groups("cpu") if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have libraries start as many threads as there is processor time for.

    They take one for each core that the process may run on. Under a quota all of these stop
    together for the rest of each tenth of a second. To be called before numpy, torch and faiss are
    imported: it sets what all of them read, for either OpenMP that they bring along. What the
    person has set stays. Without a quota nothing is set, because on a CPU another number of threads
    gives other last digits.
    """
    if num_cores() < _allowed_cores():
        environment.setdefault("OMP_NUM_THREADS", str(num_cores()))


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _of_system() -> int | None:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(PROC / "meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None  # None: not Linux


def _of_groups() -> Iterator[int]:
    """Yield what is left of each limit of a group; files in its cache can be dropped."""
    for group in _groups("memory"):
        first, second = _MEMORY_FILES[group.version]
        limits = [_number(group.folder / name) for name in first]
        used = _number(group.folder / second)
        counted = dict(re.findall(r"^(\w+) (\d+)$", _text(group.folder / "memory.stat"), re.M))
        limits.append(int(counted.get("hierarchical_memory_limit", NO_LIMIT)))
        limit = min(limit for limit in limits if limit is not None)
        if used is None or limit >= NO_LIMIT:
            continue
        name = "inactive_file" if group.version == 2 else "total_inactive_file"
        yield max(0, limit - max(0, used - int(counted.get(name, 0))))


_MEMORY_FILES = {
    # Above memory.high a process is not killed, but slowed down until it hardly moves.
    2: (("memory.max", "memory.high"), "memory.current"),
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes"),
}
"""By version: files with a limit, and the one that says how much is used."""


@dataclass(frozen=True)
class _Group:
    folder: Path
    version: int


def _groups(controller: str) -> Iterator[_Group]:
    """Yield the groups of this process that a controller may limit, its own first."""
    own = _own_paths(controller)
    for line in _text(PROC / "self" / "mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        fields, (kind, *options) = place.split(), source.split() or ("",)
        if len(fields) < 5 or kind not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind == "cgroup2" else 1
        if version not in own or (version == 1 and controller not in options[-1].split(",")):
            continue
        mounted, top = (Path(_unescaped(field)) for field in fields[3:5])
        for folder in _upwards(top, own[version], mounted):
            yield _Group(folder, version)


def _own_paths(controller: str) -> dict[int, Path]:
    """Return the path of the process's group by version, as the kernel names it."""
    paths: dict[int, Path] = {}
    for line in _text(PROC / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            paths[1] = Path("/", path)
        elif number == "0" and not controllers:
            paths[2] = Path("/", path)
    return paths


def _upwards(top: Path, own: Path, mounted: Path) -> Iterator[Path]:
    """Yield the folder of a group and those above it, up to where the file system is mounted.

    Args:
        top: where it is mounted.
        own: path of the group, from the root of all groups, or of those that a container sees.
        mounted: path of the group that lies at `top`; in a container often the group itself.
    """
    folder = top
    if own.is_relative_to(mounted):
        folder = top / own.relative_to(mounted)
    elif (top / own.relative_to("/")).is_dir():
        folder = top / own.relative_to("/")
    if ".." in folder.parts or not folder.is_dir():  # the path is one of outside the container
        folder = top
    while True:
        yield folder
        if folder == top:
            return
        folder = folder.parent


def _quota_of(group: _Group) -> float | None:
    """Return the cores that a group's quota amounts to; None without one."""
    if group.version == 2:
        numbers = _text(group.folder / "cpu.max").split()
    else:
        numbers = [_text(group.folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(number) for number in numbers)
    except ValueError:  # "max", or there are no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _number(file: Path) -> int | None:
    """Return the number in a file; None where there is none, or no limit."""
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    """Return a path of mountinfo, in which blanks and the like are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
