"""How many ranks a run has, and what starts them: decided before anything starts."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from deepcluster_core.context import Context
from deepcluster_core.errors import ConfigError
from stages.cluster import ClusterConfig
from stages.runs.compute import ComputeConfig, scratch_folder
from stages.runs.folder import RunFolder
from stages.runs.launch.messages import Messages, State
from stages.runs.launch.placement import Placement
from stages.runs.launch.srun import Srun, first_of, tasks_per_node
from stages.runs.recipe import parse_overrides
from tests.support.ranked_stage import ranked_job
from tests.support.timeouts import WITHIN_S

RUN = RunFolder(Path("run"))


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def placed(compute: ComputeConfig, device: str = "cpu") -> tuple[str, int]:
    found = Placement.of(RUN, compute, device)
    return found.name, found.num_ranks


def test_placement__one_rank_in_process_by_default() -> None:
    assert placed(ComputeConfig()) == ("process", 1)


def test_placement__several_ranks_by_torchrun() -> None:
    assert placed(ComputeConfig(ranks=2)) == ("torchrun", 2)


@pytest.mark.usefixtures("gpus")
def test_placement__a_rank_for_each_gpu() -> None:
    assert placed(ComputeConfig(), "cuda") == ("torchrun", 4)
    assert placed(ComputeConfig(ranks=3), "cuda") == ("torchrun", 3)
    assert placed(ComputeConfig(), "cuda:1") == ("process", 1)
    assert placed(ComputeConfig(), "cpu") == ("process", 1)
    assert placed(ComputeConfig(nodes=2, address="a:29500"), "cuda") == ("torchrun", 8)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("compute", "device", "text"),
    [
        ({"ranks": 5}, "cuda", "5 ranks on this machine, which has 4 usable CUDA devices"),
        ({"ranks": 2}, "cuda:1", "cuda:1 is one GPU, for compute.ranks = 2"),
        ({"ranks": 2, "launcher": "process"}, "cpu", "process runs one rank"),
        ({"launcher": "srun"}, "cpu", "srun needs a Slurm allocation"),
        ({"ranks": 3, "nodes": 2, "address": "a:1"}, "cpu", "cannot be spread evenly"),
        ({"ranks": 2, "nodes": 2}, "cpu", "compute.address: 2 machines need"),
    ],
)
def test_placement__what_cannot_be_started(
    compute: dict[str, object], device: str, text: str
) -> None:
    settings = ComputeConfig.model_validate(compute)

    with pytest.raises(ConfigError, match=text) as raised:
        Placement.of(RUN, settings, device)

    assert "Fix:" in str(raised.value)


@pytest.mark.parametrize("address", ["node1", "node1:0", "node1:65535", ":29500", "node1:port"])
def test_address__without_a_host_or_a_port(address: str) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        ComputeConfig(address=address)


def test_placement__threads_are_shared_by_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.runs.launch.placement.num_cores", lambda: 16)
    job = ranked_job(Path("out"))

    alone = Placement.of(RUN, ComputeConfig(), "cpu")
    four = Placement.of(RUN, ComputeConfig(ranks=4), "cpu")
    given = Placement.of(RUN, ComputeConfig(ranks=4, threads=16, workers=3), "cpu")

    assert (alone.threads, alone.workers(job)) == (None, 16)
    assert (four.threads, four.workers(job)) == (4, 4)
    assert (given.threads, given.workers(job)) == (16, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert four.threads == 2


def test_placement__clusterers_for_one_rank_are_named() -> None:
    two = Placement.of(RUN, ComputeConfig(ranks=2), "cpu")

    assert two.remark_on(ClusterConfig()) is None
    remark = two.remark_on(ClusterConfig(algorithm="pic"))
    assert remark is not None
    assert "algorithm: pic runs on one rank" in remark
    assert (
        Placement.of(RUN, ComputeConfig(), "cpu").remark_on(ClusterConfig(algorithm="pic")) is None
    )


def test_placement__a_least_size_of_clusters_takes_one_rank() -> None:
    two = Placement.of(RUN, ComputeConfig(ranks=2), "cpu")

    remark = two.remark_on(ClusterConfig(least_size=0.5))

    assert remark is not None
    assert "least_size: 0.5 runs on one rank" in remark


@pytest.mark.slow
def test_placement__one_rank_imports_and_starts_nothing(tmp_path: Path) -> None:
    """A process of its own, because other tests import everything."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "from deepcluster_core.context import Context\n"
        "from stages.runs.folder import RunFolder\n"
        "from stages.runs.launch.placement import Placement\n"
        "from stages.runs.compute import ComputeConfig, scratch_folder\n"
        "from tests.support.ranked_stage import ranked_job\n"
        "out = Path(sys.argv[1])\n"
        "before = {name for name in sys.modules if name.startswith('torch.distributed')}\n"
        "placement = Placement.of(RunFolder(out.with_name('run')), ComputeConfig(), 'cpu')\n"
        "placement.run(ranked_job(out), Context(seed=31, epoch=0))\n"
        "assert 'deepcluster_core.process_group' not in sys.modules\n"
        "after = {name for name in sys.modules if name.startswith('torch.distributed')}\n"
        "assert after == before, after - before\n"
        "print(out.joinpath('sum').read_text(), os.getpid())\n"
    )
    out = tmp_path / "out"
    root = Path(__file__).parents[3]

    made = subprocess.run(
        [sys.executable, "-c", program, out], cwd=root, capture_output=True, text=True, check=True
    )

    process = made.stdout.split()[-1]
    assert made.stdout.startswith("1 of 1")
    notes = (tmp_path / "out-notes-0").read_text().split()
    assert notes[1] == process
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out-notes-0"}


def test_scratch_folder__where_caches_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert scratch_folder(ComputeConfig()) == Path("/caches/deepcluster")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert scratch_folder(ComputeConfig()) == Path.home() / ".cache" / "deepcluster"
    assert scratch_folder(ComputeConfig(scratch=Path("/fast"))) == Path("/fast")


def test_parse_overrides__ranks_are_a_number_or_auto() -> None:
    assert parse_overrides(["compute.ranks=2", "compute.launcher=srun"]) == {
        "compute": {"ranks": 2, "launcher": "srun"}
    }


# Slurm


def test_placement__srun_in_an_allocation(slurm: pytest.MonkeyPatch) -> None:
    assert placed(ComputeConfig()) == ("srun", 2)
    assert placed(ComputeConfig(ranks=1)) == ("process", 1)
    assert placed(ComputeConfig(launcher="torchrun", ranks=2)) == ("torchrun", 2)
    with pytest.raises(ConfigError, match="3 ranks in a Slurm allocation of 2 tasks"):
        placed(ComputeConfig(ranks=3))
    with pytest.raises(ConfigError, match=r"compute\.device: cuda:0 is one GPU"):
        Srun().check(ComputeConfig(), 2, "cuda:0")
    slurm.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ConfigError, match="srun has started 2 processes of deepcluster"):
        placed(ComputeConfig())


@pytest.mark.slow
def test_placement__ranks_started_by_srun(slurm: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slurm.setenv("RANK", "7")  # for another program
    job = ranked_job(tmp_path / "out")
    run = RunFolder(tmp_path / "run")

    Placement.of(run, ComputeConfig(device="cpu"), "cpu").run(job, Context(seed=31, epoch=0))

    assert (job.out / "sum").read_text() == "3 of 2"
    assert not list(run.messages.iterdir()), "no messages are left"


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_placement__ranks_of_a_run_that_was_killed_end_before_others_begin(tmp_path: Path) -> None:
    run, job = RunFolder(tmp_path / "run"), ranked_job(tmp_path / "out")
    left, others = (Messages(run.messages / f"ranked-0-{name}") for name in ("left", "others"))
    for messages, out in ((left, job.out), (others, tmp_path / "elsewhere")):
        messages.folder.mkdir(parents=True)
        messages.create(1)
        messages.give_job({"out": str(out)})
        messages.report_state(0, State("started", "host"))
    made_after: list[bool] = []

    def end_when_asked() -> None:
        deadline_s = time.monotonic() + WITHIN_S
        while left.wished()[0] != "kill" and time.monotonic() < deadline_s:
            time.sleep(0.01)
        made_after.append(not job.out.exists())
        left.report_state(0, State("stopped", "host"))

    rank = threading.Thread(target=end_when_asked)
    rank.start()

    Placement.of(run, ComputeConfig(device="cpu"), "cpu").run(job, Context(seed=31, epoch=0))

    rank.join()
    assert made_after == [True]
    assert [path.name for path in run.messages.iterdir()] == ["ranked-0-others"]
    assert others.wished()[0] == "run"


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("node1", "node1"),
        ("node[07-09,12],login", "node07"),
        ("a,b", "a"),
        ("rack[2-3]node[001-004]", "rack2node001"),
        ("gpu[5,7]-ib", "gpu5-ib"),
    ],
)
def test_first_of__slurms_notation(listed: str, first: str) -> None:
    assert first_of(listed) == first


def test_tasks_per_node__slurms_notation() -> None:
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
