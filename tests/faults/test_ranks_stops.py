"""Ranks that hang, raise or fill a disk: everything ends soon, with one message for people."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcluster_core.artifacts.file_names import FEATURES
from tests.support.ranked_run import RankedRun, when

pytestmark = pytest.mark.slow  # runs whose stages start several processes each

SECONDS = {"timeout_s": 6}
"""After which a rank gives up. torchrun then kills the one that hangs, 30 s later."""


def stopped(run: RankedRun, process: "subprocess.Popen[str]", rank: int, kind: str) -> str:
    """Stop a rank once a stage has begun; return the message with which the run ends."""
    mark = run.artifact(kind) / "_unfinished"
    assert when(mark.exists, process), process.communicate()[0]
    os.kill(run.ranks()[rank], signal.SIGSTOP)
    return run.refused(process)


LONGER: dict[str, dict[str, dict[str, int]]] = {
    "features": {},
    "labels": {"cluster": {"iterations": 20_000}},
    "checkpoints": {"train": {"reassign_every": 200}},
}
"""Settings with which a stage is not over before a rank is stopped."""


@pytest.mark.parametrize(
    ("kind", "rank"), [("features", 0), ("labels", 1), ("checkpoints", 0), ("checkpoints", 1)]
)
def test_run__a_rank_that_hangs_is_named(ranked: RankedRun, kind: str, rank: int) -> None:
    process = ranked.start(2, compute=SECONDS, **LONGER[kind])

    message = stopped(ranked, process, rank, kind)

    assert f"rank {1 - rank} has waited 6 s" in message
    assert f"for rank {rank} (" in message
    assert "compute.timeout_s" in message
    assert not (ranked.artifact(kind) / "_manifest.json").exists()


def test_run__an_error_of_one_rank_is_that_of_the_run(ranked: RankedRun) -> None:
    """240 images are one unit of rows, which the second rank has; the first one waits for it."""
    features = ranked.artifact("features")
    process = ranked.start(2)
    assert when((features / "_manifest.json").exists, process)
    extracting = set(ranked.ranks())
    assert when(lambda: len(set(ranked.ranks()) - extracting) == 2, process)
    # The ranks of the next stage have started, and import libraries for seconds.
    shard = features / FEATURES / "c" / "7" / "0"
    damaged = bytearray(shard.read_bytes())
    damaged[0] ^= 1
    shard.write_bytes(damaged)

    message = ranked.refused(process)

    assert f"{features / FEATURES}: rows from 0 on are damaged" in message
    assert "Fix: run the extract stage again" in message
    assert not (ranked.artifact("labels") / "_manifest.json").exists()
    ranked.finish(2)


def test_run__training_that_diverges_is_reported_once(ranked: RankedRun) -> None:
    message = ranked.refused(ranked.start(2, train={"lr": 1e30}))

    assert message.count("lower train.lr") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system in memory with two pages, for the three files of training."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_run__scratch_is_full_for_training(ranked: RankedRun, small_disk: Path) -> None:
    message = ranked.refused(ranked.start(2, compute={"scratch": str(small_disk)}))

    assert f"{small_disk}: what the ranks of a machine share for training" in message
    assert "Cause: No space left on device" in message
    assert "set compute.scratch to a folder on a disk with more room" in message
    assert not any(small_disk.iterdir())
    ranked.finish(2)
