"""Ray as a launcher: what is decided before anything starts, and what starts one rank."""

import json
import signal
import time
from pathlib import Path

import pytest

from deepcluster_core.errors import ConfigError
from stages.runs.compute import ComputeConfig
from stages.runs.folder import RunFolder
from stages.runs.launch import ray_launcher as ray
from stages.runs.launch.messages import Messages
from stages.runs.launch.placement import Placement
from stages.runs.launch.ray_actor import Home, RankActor
from stages.runs.launch.ray_driver import by_machine, variables_of
from stages.runs.launch.ray_launcher import Cluster, Node, Ray

RUN = RunFolder(Path("run"))


def given(monkeypatch: pytest.MonkeyPatch, *nodes: Node) -> None:
    """Let there be a cluster with these machines; without any, none."""
    found = Cluster("10.0.0.1:6379", nodes) if nodes else None
    monkeypatch.setattr(ray, "find_cluster", lambda: found)


def placed(device: str = "cpu", **compute: object) -> Placement:
    settings = ComputeConfig.model_validate({"launcher": "ray", "device": device, **compute})
    return Placement.of(RUN, settings, device)


def test_find_cluster__ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_installed", lambda: False)

    with pytest.raises(ConfigError, match="Ray is not installed") as raised:
        placed(ranks=2)

    assert 'pip install "deepcluster-pipeline[ray]"' in str(raised.value)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("ray://10.0.0.1:10001", "is an address for programs outside the cluster"),
        ("127.0.0.1:1", "the Ray cluster at 127.0.0.1:1 cannot be used"),
        ("node1", "the Ray cluster at node1 cannot be used"),
    ],
)
def test_find_cluster__addresses_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, address: str, text: str
) -> None:
    monkeypatch.setattr(ray, "is_installed", lambda: True)
    monkeypatch.setenv("RAY_ADDRESS", address)

    with pytest.raises(ConfigError, match=text) as raised:
        placed(ranks=2)

    assert "Fix:" in str(raised.value)


def test_find_cluster__none_unless_one_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray, "is_installed", lambda: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray.find_cluster() is None

    # Where `ray start` writes its address.
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1")

    with pytest.raises(ConfigError, match=r"the Ray cluster at 127\.0\.0\.1:1 cannot"):
        ray.find_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray.find_cluster() is None


def test_ray__numbers_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "usable_device", lambda wanted: wanted)
    given(monkeypatch, Node(32, 8), Node(32, 4), Node(16, 0))

    assert placed("cuda").num_ranks == 12, "one for each GPU"
    assert placed("cuda").ranks_here == 8
    assert placed("cpu").num_ranks == 3, "one for each machine"
    assert placed("cpu", ranks=4).ranks_here == 2, "spread over the machines"
    assert placed("cpu", threads=20).num_ranks == 2, "a rank reserves a CPU for each thread"
    given(monkeypatch)
    assert placed("cpu").num_ranks == 1
    assert placed("cpu", ranks=3).ranks_here == 3


def test_ray__what_a_cluster_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, Node(8, 2), Node(8, 2))

    with pytest.raises(ConfigError, match=r"5 ranks, but .* has room for 4: .* 1 GPU"):
        placed("cuda", ranks=5)
    with pytest.raises(ConfigError, match=r"has room for 2: a rank takes 6 CPUs of one machine"):
        placed("cpu", ranks=3, threads=6)
    with pytest.raises(ConfigError, match="cuda:1 is one GPU of this machine"):
        placed("cuda:1", ranks=2)
    with pytest.raises(ConfigError, match=r"compute\.nodes and compute\.address belong to"):
        placed("cpu", ranks=2, nodes=2, address="a:29500")


def test_remark__whether_others_reach_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    compute = ComputeConfig(launcher="ray")
    given(monkeypatch)
    assert "on its loopback interface only" in str(Ray().remark(compute))
    given(monkeypatch, Node(8, 0))
    assert "whoever reaches them can run programs there" in str(Ray().remark(compute))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert Ray().remark(compute) is None


HOMES = [
    Home("a", "10.0.0.1", ("3",)),
    Home("b", "10.0.0.2", ("0",)),
    Home("a", "10.0.0.1", ("1",)),
]


def test_by_machine__ranks_of_a_machine_are_neighbours() -> None:
    assert by_machine(HOMES) == [0, 2, 1]


def test_variables_of__ranks_see_the_gpus_of_their_machine() -> None:
    homes = [HOMES[number] for number in by_machine(HOMES)]

    found = [variables_of(rank, homes) for rank in range(3)]

    assert [one["RANK"] for one in found] == ["0", "1", "2"]
    assert [one["LOCAL_RANK"] for one in found] == ["0", "1", "0"]
    assert [one["LOCAL_WORLD_SIZE"] for one in found] == ["2", "2", "1"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["3,1", "3,1", "0"]


@pytest.fixture
def messages(tmp_path: Path) -> Messages:
    """Return messages of a launch whose job cannot be read by a rank."""
    found = Messages(tmp_path)
    found.create(1)
    (tmp_path / "JOB.json").write_text(json.dumps({"threads": 1}))
    return found


def ended(actor: RankActor) -> int:
    while (code := actor.exit_code()) is None:
        time.sleep(0.02)
    return code


def test_rank_actor__a_rank_that_fails_at_once_has_left_its_error(messages: Messages) -> None:
    actor = RankActor()

    actor.start(messages.folder / "JOB.json", messages.log(0), {}, None)

    assert ended(actor) == 1
    assert "KeyError: 'SLURM_PROCID'" in messages.log(0).read_text(), "it has no number"


def test_rank_actor__kills_its_rank(messages: Messages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.runs.launch.ray_actor.RANK_MODULE", "http.server")
    actor = RankActor()
    actor.start(Path("0"), messages.log(0), {}, None)
    assert actor.exit_code() is None

    actor.kill()

    assert actor.exit_code() == -signal.SIGKILL
