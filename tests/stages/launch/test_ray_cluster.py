"""Ranks that Ray starts: on a real cluster of two nodes, and on one that a run starts itself."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import read_manifest
from tests.support import ray_nodes
from tests.support.launching import (
    LOOPBACK,
    ROOT,
    USER_ERROR,
    all_end,
    listening,
    start,
    when_ranks_run,
)
from tests.support.ranked_stage import notes, ranked_job
from tests.support.recipes import write_recipe
from tests.support.timeouts import WITHIN_S

try:
    distribution("ray")
except PackageNotFoundError:
    pytest.skip("pip install ray", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,  # each test starts Ray, and ranks that import torch
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

ENDS_WITHIN_S = 60
"""Seconds in which Ray ends the actors of a driver that was killed."""
AGENTS_END_WITHIN_S = 240
"""Seconds in which Ray's agents notice that the rest of their cluster was killed; 70 were seen."""
ENVIRONMENT = {
    # As a cluster that a run starts for itself: nobody else reaches it.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}
RUN = (
    "import json, sys, deepcluster\n"
    "deepcluster.run_epochs(*sys.argv[1:3], overrides=json.loads(sys.argv[3]), echo=False)\n"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start two nodes; return the address."""
    folder = tempfile.mkdtemp(prefix="ray-")  # the paths of sockets must be short
    nodes = subprocess.Popen(
        [sys.executable, ray_nodes.__file__],
        env=os.environ | ENVIRONMENT | {"RAY_TMPDIR": folder},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert nodes.stdin is not None
    assert nodes.stdout is not None
    with nodes.stdin, nodes.stdout:
        yield nodes.stdout.readline().strip()
    nodes.wait(WITHIN_S)
    shutil.rmtree(folder)


@pytest.fixture
def two_nodes(cluster: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let processes that a test starts use the cluster."""
    for name, value in (ENVIRONMENT | {"RAY_ADDRESS": cluster}).items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def launch(out: Path, act: str) -> "subprocess.Popen[str]":
    return start(out, act, launcher="ray", timeout_s=60)


def end_of(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=WITHIN_S)[0]


def parent_of(process: int) -> int:
    text = Path(f"/proc/{process}/stat").read_text()
    return int(text.rpartition(")")[2].split()[1])


def below(process: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = parent_of(int(folder.name))
        except OSError:  # ended meanwhile
            continue
    found = [process]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]


def driver_of(run: "subprocess.Popen[str]") -> int:
    (driver,) = [child for child in below(run.pid) if parent_of(child) == run.pid]
    return driver


@pytest.mark.usefixtures("two_nodes")
def test_ray__ranks_on_two_nodes_make_an_artifact(out: Path) -> None:
    run = launch(out, "wait")
    ranks = when_ranks_run(run, out)[:2]
    actors = [parent_of(rank) for rank in ranks]

    # Each node has one CPU, and a process of Ray's that starts the others.
    assert parent_of(actors[0]) != parent_of(actors[1])

    out.with_name("go").touch()
    assert end_of(run) == ""
    assert (out / "sum").read_text() == "3 of 2"
    assert [note[0] for note in notes(out)] == ["0", "1"]
    assert not list((out.parent / "run/.ranks").iterdir()), "no messages are left"


@pytest.mark.usefixtures("two_nodes")
def test_ray__an_error_for_people_is_raised_again(out: Path) -> None:
    run = launch(out, "raise")

    assert end_of(run) == "too few rows.\n  Fix: add images.\n"
    assert run.returncode == USER_ERROR


@pytest.mark.usefixtures("two_nodes")
def test_ray__a_signal_lets_the_ranks_save(out: Path) -> None:
    run = launch(out, "save")
    ranks = when_ranks_run(run, out)[:2]

    run.terminate()
    end_of(run)

    assert run.returncode == -signal.SIGTERM
    assert out.with_name("saved").exists()
    all_end(ranks, within_s=0)


@pytest.mark.usefixtures("two_nodes")
def test_ray__kill_9_of_a_rank_ends_all(out: Path) -> None:
    run = launch(out, "wait")
    ranks = when_ranks_run(run, out)[:2]

    os.kill(ranks[1], signal.SIGKILL)
    output = end_of(run)

    assert run.returncode == USER_ERROR, output
    assert "rank 1 of 2" in output
    assert "was ended by SIGKILL" in output
    all_end(ranks, within_s=0)
    assert not ranked_job(out, "wait").is_done()


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize("victim", ["driver", "actor"])
def test_ray__kill_9_of_its_processes_ends_all(out: Path, victim: str) -> None:
    run = launch(out, "wait")
    ranks = when_ranks_run(run, out)[:2]

    os.kill(driver_of(run) if victim == "driver" else parent_of(ranks[1]), signal.SIGKILL)
    output = end_of(run)

    assert run.returncode == USER_ERROR, output
    assert "ended without reporting an error" in output
    all_end(ranks, within_s=0)


@pytest.mark.usefixtures("two_nodes")
def test_ray__kill_9_of_the_run_ends_all(out: Path) -> None:
    run = launch(out, "wait")
    ranks = when_ranks_run(run, out)[:2]
    driver = driver_of(run)

    run.kill()
    run.wait(WITHIN_S)

    all_end([*ranks, driver], within_s=ENDS_WITHIN_S)
    end_of(run)


def test_ray__a_cluster_of_the_run_itself(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    run = launch(out, "wait")
    when_ranks_run(run, out)
    processes = below(run.pid)

    addresses = listening(processes)

    out.with_name("go").touch()
    assert end_of(run) == ""
    assert (out / "sum").read_text() == "3 of 2"
    mapped = f"0000000000000000FFFF0000{LOOPBACK}"  # the same for sockets that also speak IPv6
    assert set(addresses) == {LOOPBACK, mapped}
    all_end(processes)


def test_ray__kill_9_of_a_run_ends_its_own_cluster(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    run = launch(out, "wait")
    ranks = when_ranks_run(run, out)[:2]
    processes = below(run.pid)

    run.kill()
    run.wait(WITHIN_S)

    all_end(ranks)
    all_end(processes, within_s=AGENTS_END_WITHIN_S)
    end_of(run)


def run_epochs(recipe: Path, run: Path, **compute: object) -> dict[str, str]:
    """Run two epochs; return the digests of their artifacts."""
    settings = {"compute": {"device": "cpu", "threads": 1, **compute}, "keep": {"features": None}}
    subprocess.run(
        [sys.executable, "-c", RUN, recipe, run, json.dumps(settings)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=WITHIN_S,
    )
    kinds = ("features", "labels", "checkpoints")
    folders = [run / kind / f"epoch={epoch:04d}" for kind in kinds for epoch in (0, 1)]
    return {str(folder.relative_to(run)): read_manifest(folder).digest for folder in folders}


@pytest.mark.usefixtures("two_nodes")
def test_ray__a_whole_run_has_the_bytes_of_others(tmp_path: Path, tiny_images: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml", tiny_images, epochs="2")

    alone = run_epochs(recipe, tmp_path / "alone", ranks=1)
    torchrun = run_epochs(recipe, tmp_path / "torchrun", ranks=2, launcher="torchrun")
    on_ray = run_epochs(recipe, tmp_path / "ray", ranks=2, launcher="ray")

    assert on_ray == torchrun
    # Training with another number of ranks agrees within a tolerance only.
    for name in ("features/epoch=0000", "labels/epoch=0000"):
        assert on_ray[name] == alone[name]
