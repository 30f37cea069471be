import os
import platform
import subprocess
import sys

import pytest

from deepcluster_core.memory import KEEP_FREED_MEMORY

TAKES_AND_FREES = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from deepcluster_core.memory import keep_freed_memory
    keep_freed_memory()
for _ in range(2):
    np.ones(64 << 17)  # 64 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(64 << 17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str, environment: dict[str, str] | None = None) -> int:
    command = [sys.executable, "-c", TAKES_AND_FREES, how]
    env = os.environ | (environment or {})
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="does nothing without glibc")
def test_keep_freed_memory__the_kernel_maps_it_once() -> None:
    # 640 MiB are 163,840 pages of 4 KiB, or 320 of 2 MiB where NumPy gets huge ones.
    assert page_faults("kept") < 20
    assert page_faults("given back") >= 320
    assert page_faults("given back", KEEP_FREED_MEMORY) < 20


TAKES_AND_RELEASES = """
import resource, sys
import numpy as np
from deepcluster_core.memory import keep_freed_memory, release_freed_memory

def private_mib():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) >> 10

keep_freed_memory()
before = private_mib()
taken = np.ones(64 << 17)  # 64 MiB
held = np.ones(1)  # above it in the heap
del taken
kept = private_mib() - before
release_freed_memory()
print(kept, private_mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="does nothing without glibc")
def test_release_freed_memory__gives_back_what_was_kept() -> None:
    command = [sys.executable, "-c", TAKES_AND_RELEASES]
    found = subprocess.run(command, capture_output=True, text=True, check=True)

    kept_mib, released_mib = map(int, found.stdout.split())
    assert kept_mib >= 60
    assert released_mib < 10


LEAVES_A_CYCLE = """
import sys
from deepcluster_core.memory import collect_seldom

class Cycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("collected", flush=True)

if sys.argv[1] == "seldom":
    collect_seldom()
Cycle()
"""


@pytest.mark.parametrize(("how", "printed"), [("seldom", ""), ("usual", "collected\n")])
def test_collect_seldom__leaves_what_is_there_at_the_end_to_the_system(
    how: str, printed: str
) -> None:
    command = [sys.executable, "-c", LEAVES_A_CYCLE, how]

    found = subprocess.run(command, capture_output=True, text=True, check=True)

    assert found.stdout == printed


def test_collect_seldom__triton_has_nothing_to_warn_of() -> None:
    pytest.importorskip("triton")
    program = "from deepcluster_core.memory import collect_seldom\ncollect_seldom()\nimport triton"
    command = [sys.executable, "-c", program]

    found = subprocess.run(command, capture_output=True, text=True, check=True)

    assert found.stderr == ""
