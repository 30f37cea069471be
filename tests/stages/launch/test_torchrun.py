"""Ranks on one machine: real processes that torchrun starts."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deepcluster_core.context import Context
from deepcluster_core.errors import FeatureError, RanksError
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.launch.placement import Placement
from tests.support.ranked_stage import notes, ranked_job

Launch = Callable[..., Placement]


@pytest.fixture
def context() -> Context:
    return Context(seed=31, epoch=0, workers=1)


@pytest.fixture
def placement(tmp_path: Path) -> Launch:
    def make(*, ranks: int, threads: int | None = None) -> Placement:
        settings = ComputeConfig(device="cpu", ranks=ranks, threads=threads, launcher="torchrun")
        return Placement.of(RunFolder(tmp_path / "run"), settings, "cpu")

    return make


def test_placement__ranks_make_an_artifact_together(
    placement: Launch, context: Context, tmp_path: Path
) -> None:
    job = ranked_job(tmp_path / "out")

    placement(ranks=2, threads=2).run(job, context)

    assert job.is_done()
    assert (job.out / "sum").read_text() == "3 of 2"
    ranks = notes(job.out)
    assert [note[0] for note in ranks] == ["0", "1"]
    assert {note[2] for note in ranks} == {"2"}, "threads; torchrun alone sets one"
    assert str(os.getpid()) not in {note[1] for note in ranks}


@pytest.mark.slow  # two processes that import torch
def test_placement__one_rank_by_torchrun(
    placement: Launch, context: Context, tmp_path: Path
) -> None:
    job = ranked_job(tmp_path / "out")

    placement(ranks=1).run(job, context)

    assert (job.out / "sum").read_text() == "1 of 1"


@pytest.mark.slow  # three processes that import torch
def test_placement__progress_reaches_the_run(placement: Launch, tmp_path: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    context = Context(seed=31, epoch=0, progress=lambda done, total: heard.append((done, total)))

    placement(ranks=2).run(ranked_job(tmp_path / "out"), context)

    assert heard == [(1, 1)]


@pytest.mark.slow  # three processes that import torch
@pytest.mark.parametrize("rank", [0, 1])
def test_placement__an_error_for_people_is_raised_again(
    placement: Launch, context: Context, tmp_path: Path, rank: int
) -> None:
    with pytest.raises(FeatureError) as raised:
        placement(ranks=2).run(ranked_job(tmp_path / "out", "raise", rank), context)

    assert str(raised.value) == "too few rows.\n  Fix: add images."


@pytest.mark.slow  # three processes that import torch
def test_placement__a_bug_keeps_its_traceback(
    placement: Launch, context: Context, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError) as raised:
        placement(ranks=2).run(ranked_job(tmp_path / "out", "bug", 1), context)

    assert str(raised.value) == "rank 1 of 2 raised ZeroDivisionError: of a rank"
    told = "\n".join(raised.value.__notes__)
    assert 'raise ZeroDivisionError("of a rank")' in told
    logs = Path(raised.value.__notes__[-1].removeprefix("The logs of the ranks are in "))
    assert "ZeroDivisionError" in (logs / "rank-1.log").read_text()


@pytest.mark.slow  # three processes that import torch
def test_placement__a_killed_rank_is_named(
    placement: Launch, context: Context, tmp_path: Path
) -> None:
    job = ranked_job(tmp_path / "out", "die", 1)

    with pytest.raises(RanksError, match=r"rank 1 of 2 \(on .*\) was ended by SIGKILL") as raised:
        placement(ranks=2).run(job, context)

    assert "main memory was full" in str(raised.value)
    assert "the same command then continues" in str(raised.value)
    logs = Path(str(raised.value).rpartition("Logs:  ")[2])
    assert (logs / "rank-0.log").exists(), "the message names them, so that they are kept"
    shutil.rmtree(logs)
    assert not job.is_done()
