"""Ranks and memory or disks that are too small: rows go to a file, and a lack is explained."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import read_manifest
from tests.support import launching
from tests.support.control_groups import ROOT, control_group
from tests.support.launching import USER_ERROR
from tests.support.many_rows import DIM, job, write_rows
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow  # gigabytes, or processes that import torch

GIB = 1 << 30
LIMIT_BYTES = 2 * GIB
NUM_ROWS = 2_200_000
"""Reduced rows of 1 KiB: more than the limit, of which torch in three processes takes the most."""
FEW_ROWS = 600_000
"""More than 256 MiB for each of two ranks, so that they keep them in files."""


def test_cluster__rows_larger_than_memory(tmp_path: Path) -> None:
    assert NUM_ROWS * DIM * 4 > LIMIT_BYTES
    write_rows(tmp_path, NUM_ROWS)
    command = [sys.executable, "-m", "tests.support.many_rows", tmp_path, tmp_path / "scratch"]
    with control_group("memory", limit_in_bytes=LIMIT_BYTES) as group:
        ended = group.run([str(word) for word in command])

    assert ended.returncode == 0, ended.stdout + ended.stderr
    labels = read_manifest(job(tmp_path).out)
    assert (labels.ranks, labels.rows) == (2, NUM_ROWS)
    assert not any((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("rank", [0, 1])
def test_launch__a_rank_that_the_kernel_ended_for_its_memory(tmp_path: Path, rank: int) -> None:
    settings = json.dumps({"device": "cpu", "ranks": 2})
    command = [sys.executable, launching.__file__, settings, tmp_path / "out", "fill", rank]
    with control_group("memory", limit_in_bytes=2 * GIB) as group:
        ended = group.run([str(word) for word in command])

    assert ended.returncode == USER_ERROR, ended.stdout + ended.stderr
    assert f"rank {rank} of 2 (on " in ended.stdout
    assert "was ended by SIGKILL" in ended.stdout
    cause = "Cause: main memory, or what the control group may use of it, was full."
    assert cause in ended.stdout
    assert "set fewer compute.ranks" in ended.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system in memory that has room for the rows of one rank, but not of two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = FEW_ROWS * DIM * 4 * 3 // 4
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_cluster__scratch_is_full_for_one_of_the_ranks(tmp_path: Path, small_disk: Path) -> None:
    write_rows(tmp_path, FEW_ROWS)
    command = [sys.executable, "-m", "tests.support.many_rows", tmp_path, small_disk]
    ended = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )

    assert ended.returncode == USER_ERROR, ended.stdout + ended.stderr
    assert f"{small_disk}: the " in ended.stdout
    assert "No space left on device" in ended.stdout
    assert "set compute.scratch to a folder on a disk with more room" in ended.stdout
    assert not any(small_disk.iterdir())
