"""`deepcluster serve` and `prefect deployment run`, typed as a person does, in processes."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import FlowRun

from deepcluster_core.artifacts.tables import read_labels
from tests.support.flow_runs import recorded_tasks, tasks
from tests.support.object_stores import BUCKET, ObjectStoreServer
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.recipes import write_recipe
from tests.support.timeouts import WITHIN_S

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all

LOOP, STAGE = "deepcluster/epoch-loop", "deepcluster-stage/rerun"


@dataclass(frozen=True)
class Served:
    """A running `deepcluster serve`."""

    here: Path
    url: str
    environment: dict[str, str]
    process: "subprocess.Popen[bytes]"

    def typed(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=self.here,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=WITHIN_S,
            check=False,
        )

    def run(
        self, deployment: str, *parameters: str, watch: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        given = (part for parameter in parameters for part in ("--param", parameter))
        prefect = PROGRAM.with_name("prefect")
        return self.typed(
            prefect, "deployment", "run", deployment, *given, *(["--watch"] if watch else [])
        )

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.url)

    def flow_run(self, name: str) -> FlowRun:
        with self.client() as client:
            named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
            (found,) = client.read_flow_runs(flow_run_filter=named)
        return found

    def count(self) -> int:
        with self.client() as client:
            return len(client.read_flow_runs())


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_images: Path, moto_server: ObjectStoreServer
) -> Iterator[Served]:
    """Start server and worker outside a checkout, with the settings of an object store."""
    here, home = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("prefect")
    write_recipe(here / "tiny.yaml", tiny_images)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = ENVIRONMENT | {"PREFECT_HOME": str(home), "PWD": "/"}
    environment |= moto_server.environment | {"XDG_CACHE_HOME": str(home / "cache")}
    log = home / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # Ctrl-C is ignored, as by what a script starts with `&`.
            ["sh", "-c", 'trap "" INT; exec "$@"', "sh", PROGRAM, "serve", "--port", str(port)],
            cwd=here,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: process.poll() is not None or "The UI:" in log.read_text(), or_show=log)
        assert process.poll() is None, log.read_text()
        yield Served(here, f"http://127.0.0.1:{port}/api", environment, process)
    finally:
        process.terminate()
        process.wait(WITHIN_S)


def wait_for(condition: Callable[[], bool], *, or_show: Path | None = None) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, or_show and or_show.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def finished(served: Served) -> FlowRun:
    """Return the flow run of a loop of one epoch, started from the shell."""
    ended = served.run(LOOP, "recipe=tiny.yaml", "run=served", "epochs=1")
    assert ended.returncode == 0, ended.stdout
    return served.flow_run("served (tiny.yaml)")


def test_serve__runs_the_loop_on_its_worker(served: Served, finished: FlowRun) -> None:
    assert finished.state_name == "Completed"
    with served.client() as client:
        states = recorded_tasks(client, finished.id)
    assert states == dict.fromkeys({"index"} | tasks(0), "Completed")
    assert (served.here / "runs/served/labels/epoch=0000/labels.parquet").exists()


def test_serve__shows_progress_metrics_and_state(served: Served, finished: FlowRun) -> None:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[finished.id]))
    with served.client() as client:
        found = {made.key: made for made in client.read_artifacts(artifact_filter=of_run)}

    kinds = {key: made.type for key, made in found.items()}
    assert kinds == {
        "served-overview": "image",
        "served-progress": "progress",
        "served-metrics": "table",
        "served-state": "markdown",
    }
    assert found["served-progress"].data == 100
    assert '"nmi_labels"' in str(found["served-metrics"].data)
    assert "| checkpoints | 0 | whole |" in str(found["served-state"].data)


@pytest.mark.parametrize(
    ("deployment", "parameter", "problem"),
    [
        (LOOP, "ecophs=5", "not found on the deployment: 'ecophs'"),
        (LOOP, "epochs=-1", "-1 is less than the minimum of 0"),
        (LOOP, 'overrides={"cluster": {"kk": 5}}', "'kk' was unexpected"),
        (LOOP, 'overrides={"train": {"lr": "fast"}}', "for field 'overrides.train.lr'"),
        (STAGE, "stage=trian", "'trian' is not one of"),
    ],
)
def test_serve__wrong_parameters_are_refused_before_a_run_begins(
    deployment: str, parameter: str, problem: str, served: Served
) -> None:
    before = served.count()

    refused = served.run(
        deployment, "recipe=tiny.yaml" if deployment == LOOP else "run=served", parameter
    )

    assert refused.returncode == 1
    assert problem in " ".join(refused.stdout.split())
    assert served.count() == before


def test_serve__runs_one_stage_again_elsewhere(served: Served, finished: FlowRun) -> None:
    ended = served.run(
        STAGE,
        *("stage=cluster", "run=served", "epoch=0"),
        'overrides={"cluster": {"k": 5}}',
        "out=k5",
    )

    assert ended.returncode == 0, ended.stdout
    rerun = served.flow_run("cluster epoch 0 of served")
    assert rerun.state_name == "Completed"
    assert read_labels(served.here / "k5").k == 5


def test_serve__makes_a_run_on_an_object_store(served: Served) -> None:
    url = f"s3://{BUCKET}/served/demo"
    made = served.run(LOOP, "recipe=tiny.yaml", f"run={url}", "epochs=1")
    assert made.returncode == 0, made.stdout

    again = served.run(STAGE, "stage=cluster", f"run={url}", "epoch=0", "out=of-store")
    assert again.returncode == 0, again.stdout

    pulled = served.typed(PROGRAM, "pull", url, served.here / "pulled")
    assert pulled.returncode == 0, pulled.stdout
    labels = read_labels(served.here / "pulled/labels/epoch=0000")
    assert (read_labels(served.here / "of-store").cluster_N == labels.cluster_N).all()


def test_serve__refuses_to_be_started_twice_in_a_folder(served: Served) -> None:
    refused = served.typed(PROGRAM, "serve", "--port", "1")

    assert refused.returncode == 2
    assert refused.stdout.startswith("deepcluster: prefect.toml: would be overwritten")
    assert (served.here / "prefect.toml").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_serve__sigterm_leaves_nothing_behind(served: Served) -> None:
    """The last test of this file: it stops the server."""
    home = served.environment["PREFECT_HOME"].encode()
    long = ("run=long", "epochs=10000", "yes=true")  # it will not come to fill the disk
    started = served.run(LOOP, "recipe=tiny.yaml", *long, watch=False)
    assert started.returncode == 0, started.stdout
    wait_for((served.here / "runs/long/labels/epoch=0000/_manifest.json").exists)
    assert len(processes_with(home)) >= 4, "serve, server, worker and the run"

    served.process.send_signal(signal.SIGTERM)

    assert served.process.wait(60) == 0
    wait_for(lambda: not processes_with(home))  # the run saves its training before it ends
    assert not (served.here / "prefect.toml").exists()


def processes_with(text: bytes) -> list[str]:
    """Return the command lines of the processes that have `text` in their environment."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found
