"""Control groups that limit child processes, as a container or Slurm does.

Only version 1 is used, because version 2 does not allow a group below one that has processes. The
group lies below the test's own, so that the limits of the test apply to it as well.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepcluster_core import limits
from tests.support.timeouts import WITHIN_S

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ControlGroup:
    """A new control group of version 1 for child processes."""

    folder: Path

    def run(
        self, command: Sequence[str], *, within_s: int = WITHIN_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a member of the group, and return what it wrote and how it ended."""
        # The shell enters the group before the command starts, in the same process.
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return subprocess.run(
            ["/bin/sh", "-c", enter, str(self.folder), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=within_s,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )


@contextmanager
def control_group(controller: str, **files: int) -> Iterator[ControlGroup]:
    """Make a group below that of this process and delete it; skip the test if that is impossible.

    Args:
        controller: `memory` or `cpu`.
        files: values by name of the group's files, without the controller and the dot.
    """
    of_version_1 = [
        group
        for group in limits._groups(controller)  # pyright: ignore[reportPrivateUsage]
        if group.version == 1
    ]
    if not of_version_1:
        pytest.skip(f"no control groups of version 1 with the controller {controller}")
    folder = of_version_1[0].folder / f"deepcluster-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        for name, value in files.items():
            (folder / f"{controller}.{name}").write_text(str(value))
        yield ControlGroup(folder)
    finally:
        folder.rmdir()
