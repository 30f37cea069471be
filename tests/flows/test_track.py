"""Runs in real trackers on this machine, read back with the trackers' own readers."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.errors import ConfigError
from flows.show.page_inputs import key_pictures
from stages.runs.folder import RunFolder
from stages.runs.tracking import metrics_of, place_given, track
from tests.support.flow_runs import loop
from tests.support.program import ENVIRONMENT, PROGRAM
from tests.support.timeouts import WITHIN_S

EPOCHS = [0, 1, 2]
NOBODY = "http://user:secret@127.0.0.1:9"
"""A server that does not answer: nothing listens on this port."""


@pytest.fixture(autouse=True)
def _libraries_may_warn() -> Iterator[None]:
    """Ignore warnings of the trackers' libraries, which are not ours to repair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def send(run: Path, name: str, place: Path | str) -> str:
    folder = RunFolder(run)
    return track(folder, name, str(place), key_pictures(folder))


def events_of(folder: Path) -> Any:  # noqa: ANN401  TensorBoard ships no types
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    return events


def losses_of(run: Path) -> list[float]:
    rows = [read_metrics(RunFolder(run).artifact("metrics", epoch)) for epoch in EPOCHS]
    return [row["loss"] for row in rows]


def test_track__tensorboard_reads_metrics_pictures_and_recipe(
    finished_run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    tensor_util = pytest.importorskip("tensorboard.util.tensor_util")

    send(finished_run, "tensorboard", tmp_path)

    events = events_of(tmp_path / "finished")
    losses = events.Tensors("loss")
    assert [point.step for point in losses] == EPOCHS
    values = [float(tensor_util.make_ndarray(point.tensor_proto)) for point in losses]
    assert values == pytest.approx(losses_of(finished_run), rel=1e-6)  # stored as float32
    (picture,) = events.Images("overview")
    assert picture.encoded_image_string == (finished_run / "overview.png").read_bytes()
    (recipe,) = events.Tensors("recipe")
    assert b"| cluster.k | " in recipe.tensor_proto.string_val[0]


def test_track__tensorboard_again_writes_nothing(finished_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    send(finished_run, "tensorboard", tmp_path)
    (before,) = (tmp_path / "finished").iterdir()
    content = before.read_bytes()

    send(finished_run, "tensorboard", tmp_path)

    assert [*(tmp_path / "finished").iterdir()] == [before]
    assert before.read_bytes() == content


@pytest.mark.slow
def test_track__mlflow_holds_the_run_once(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # MLflow keeps pictures in ./mlruns
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    for _ in range(2):
        send(finished_run, "mlflow", uri)

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("deepcluster")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [*enumerate(losses_of(finished_run))]
    assert run.info.run_name == "finished"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lr"]
    assert len(run.data.tags["labels.digest"]) == 64
    assert run.data.tags["code_version"]
    (picture,) = client.list_artifacts(run.info.run_id)
    assert picture.path == "overview.png"


@pytest.mark.slow
def test_track__mlflow_keeps_a_changed_parameter_as_a_tag(
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    send(own_run, "mlflow", uri)
    config = own_run / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 3", "epochs: 4"))

    send(own_run, "mlflow", uri)

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("deepcluster")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["epochs"] == "3"
    assert run.data.tags["now.epochs"] == "4"
    assert run.info.status == "KILLED", "one of four epochs is missing"


@pytest.mark.filterwarnings("ignore")
def test_track__wandb_writes_offline_once(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")

    places = [send(finished_run, "wandb", tmp_path) for _ in range(2)]

    assert all("offline" in place for place in places)
    (logged,) = (tmp_path / "wandb").glob("deepcluster-*.json")
    assert set(json.loads(logged.read_text())) == {"epoch 0", "epoch 1", "epoch 2", "overview"}
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    assert [*offline.glob("files/media/images/overview_*.png")]


def test_track__reports_a_tracker_that_fails(finished_run: Path) -> None:
    pytest.importorskip("mlflow")
    with pytest.raises(ConfigError, match=r"(?s)tracker mlflow: .*Cause: .*Fix: ") as raised:
        send(finished_run, "mlflow", NOBODY)

    assert "secret" not in str(raised.value)


def test_track__needs_an_epoch(own_run: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_run / "metrics")

    with pytest.raises(ConfigError, match="no finished epoch yet"):
        send(own_run, "tensorboard", tmp_path)


@pytest.mark.parametrize(
    ("name", "uri", "out", "message"),
    [
        ("nobody", None, None, "known: mlflow, tensorboard, wandb"),
        ("mlflow", None, "folder", "--uri sqlite"),
        ("wandb", "http://server", None, "--out DIR"),
    ],
)
def test_place_given__refuses_what_a_tracker_does_not_take(
    name: str, uri: str | None, out: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        place_given(name, uri, out)


def test_metrics_of__leaves_out_what_is_no_number(finished_run: Path) -> None:
    metrics = metrics_of(RunFolder(finished_run), 0)

    assert "nmi_previous" not in metrics, "undefined in the first epoch"
    assert "warnings" not in metrics, "a text"


def test_run__is_tracked_while_it_goes(prefect_server: str, recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    overrides = {"compute": {"track": "tensorboard"}}
    run = tmp_path / "live"

    loop(recipe, run, epochs=1, overrides=overrides)
    loop(recipe, run, epochs=2, overrides=overrides)  # epoch 0 is reported again, but is there

    events = events_of(run / "tensorboard/live")
    assert [point.step for point in events.Tensors("loss")] == [0, 1]
    assert [point.step for point in events.Images("overview")] == [0, 1]


@pytest.mark.slow
def test_run__goes_on_without_a_tracker_that_fails(
    prefect_server: str,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)

    states = loop(recipe, tmp_path / "run", epochs=2, overrides={"compute": {"track": "mlflow"}})

    assert set(states.values()) == {"Completed"}
    warned = [text for text in caplog.messages if text.startswith("tracker mlflow: failed")]
    assert len(warned) == 1, "once, not in each epoch"
    assert "--to mlflow repeats it" in warned[0]
    assert "secret" not in warned[0]


@pytest.mark.slow  # the server of MLflow takes half a minute to start
def test_command__tracks_to_a_server_and_says_where(finished_run: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    for needed in ("aiohttp", "huey"):  # by the server alone, so the extra does not install them
        pytest.importorskip(needed)
    with mlflow_server(tmp_path) as uri:
        command = [PROGRAM, "track", finished_run, "--to", "mlflow", "--uri", uri]
        ended = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=WITHIN_S, check=True
        )
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name("deepcluster").experiment_id
        (run,) = client.search_runs([experiment])
        (picture,) = client.list_artifacts(run.info.run_id)

    page = f"{uri}/#/experiments/{experiment}/runs/{run.info.run_id}"
    assert ended.stdout == f"{finished_run}: tracked in {page}\n"
    assert ended.stderr == ""
    assert picture.path == "overview.png", "sent to the server, not to a folder here"
    assert not (tmp_path / "mlruns").exists()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Serve a store of MLflow on this machine; yield its URI."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    artifacts = ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    log = (folder / "server.log").open("w")
    # Its workers are processes of their own, which the end of the first one would leave behind.
    server = subprocess.Popen(
        [*command, *store, *artifacts],
        cwd=folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + WITHIN_S
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{uri}/health").status_code == 200:
                    break
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(WITHIN_S)
        log.close()


@pytest.mark.slow
def test_command__tracks_and_says_where(finished_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    command = [PROGRAM, "track", finished_run, "--to", "tensorboard", "--out", tmp_path]

    ended = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=WITHIN_S, check=True
    )

    assert ended.stdout == f"{finished_run}: tracked in {tmp_path}/finished\n"
    assert ended.stderr == ""
