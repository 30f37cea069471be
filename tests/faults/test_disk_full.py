"""A disk that is too small, then read-only, then large enough."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from deepcluster_core.artifacts.resource_errors import explain_resource_errors
from deepcluster_core.errors import ArtifactError
from stages.runs.export import SUFFIXES, export
from tests.support.program import Program
from tests.support.run_files import learnt
from tests.support.small_disk import mount, small_disk
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all

FIRST_KIB, LAST_KIB = 64, 1 << 16


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a small file system in memory."""
    with small_disk(tmp_path / "disk", kib=FIRST_KIB) as folder:
        yield folder


def refused(program: Program, *more: str) -> str:
    """Run the program; return the one message with which it ends."""
    process = program.start(*more)
    output, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    assert output.count("deepcluster: ") == 1
    assert "Fix:" in output
    return output


@pytest.mark.slow
def test_run__goes_on_once_there_is_room(
    program: Program, undisturbed: Program, disk: Path
) -> None:
    small = Program(program.recipe, disk / "run", program.home)
    said = refused(small)
    assert "does not fit here" in said
    assert re.search(r"about [\d.]+ [kMG]B of disk \([\d.]+ [kMG]?B free\)", said)
    assert "Too little: disk" in said
    assert not small.run.exists(), "refused before anything was written"

    size, full = FIRST_KIB, 0
    while True:
        process = small.start("--yes")
        output, _ = process.communicate(timeout=WITHIN_S)
        if process.returncode == 0:
            break
        assert process.returncode == 2, output
        assert "Traceback" not in output
        assert re.search(r"disk/run[^:]*: the disk is full: [\d,]+ bytes of .* free", output)
        assert re.search(r"needs about [\d,]+ bytes more", output)
        full, size = full + 1, size * 4
        assert size < LAST_KIB, output
        assert mount("tmpfs", "tmpfs", disk, f"remount,size={size}k") == 0

    assert full >= 3, "several stages met a full disk"
    assert learnt(small.run) == learnt(undisturbed.run)


def test_run__says_when_it_may_not_write(program: Program, disk: Path) -> None:
    mount("tmpfs", "tmpfs", disk, "remount,size=64m,ro")
    said = refused(Program(program.recipe, disk / "run", program.home))
    assert "disk/run: cannot be written to (Read-only file system)" in said


@pytest.mark.parametrize("format", SUFFIXES)
def test_export__says_that_the_disk_is_full_and_leaves_nothing(
    format: str, undisturbed: Program, disk: Path
) -> None:
    out = disk / f"network{SUFFIXES[format]}"

    with pytest.raises(ArtifactError, match=r"be written \(\[Errno 28\] .*\n  Fix: make room"):
        export(str(undisturbed.run), format=format, out=out)

    assert not list(disk.iterdir())


def test_explain_resource_errors__of_memory(tmp_path: Path) -> None:
    too_much = 1 << 50
    for allocate in (lambda: np.zeros(too_much), lambda: torch.zeros(too_much)):
        with (
            pytest.raises(ArtifactError, match=r"too little memory[\s\S]*Fix:"),
            explain_resource_errors(tmp_path),
        ):
            allocate()


def test_explain_resource_errors__leaves_other_errors_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyError), explain_resource_errors(tmp_path):
        raise KeyError("a bug")
