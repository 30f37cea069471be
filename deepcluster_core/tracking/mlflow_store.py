"""Write a run to MLflow: to a server, or to a local store such as sqlite:///mlflow.db."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from deepcluster_core.text import without_credentials
from deepcluster_core.tracking.tracker import Record

EXPERIMENT = "deepcluster"
"""The experiment of all runs, unless MLFLOW_EXPERIMENT_NAME names another."""
RUN_ID = "deepcluster.run_id"
"""The tag by which a run is found again."""
VALUE_CHARACTERS = 500
"""Longest value of a parameter or tag; every version of MLflow accepts as many characters."""
SETTINGS = {
    # How often, and how many seconds, to wait for a server. MLflow's defaults are up to 14 minutes,
    # which the run would wait too.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # MLflow prints the address of a run on a server between our own lines; `place` names it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Settings of MLflow, unless the environment has others."""


def open_tracker(record: Record, place: str) -> "MlflowRun":
    """Open a run in the store at the URI `place`; empty for MLFLOW_TRACKING_URI or MLflow's own."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("mlflow")  # sets up its loggers, which `_quiet` changes
    with _quiet():
        return MlflowRun(record, place or None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and notes of MLflow and its libraries off the terminal."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class MlflowRun:
    """A run in MLflow."""

    def __init__(self, record: Record, uri: str | None) -> None:
        mlflow: Any = import_module("mlflow")  # its types are incomplete
        self._entities: Any = import_module("mlflow.entities")
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._run = self._find(record) or self._create(record)
        self._id: str = self._run.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        self._write_parameters(record)
        self._logged: dict[str, set[tuple[int, float]]] = {}
        """The epochs and values of each metric that the store has."""

    @property
    def place(self) -> str:
        """The page of the run on a server, or else the store, the experiment and the run.

        Without user and password of a server.
        """
        store = without_credentials(str(self._client.tracking_uri))
        if store.startswith(("http://", "https://")):
            experiment = self._run.info.experiment_id
            return f"{store.rstrip('/')}/#/experiments/{experiment}/runs/{self._id}"
        return f"{store}, experiment {self._experiment_name}, run {self._id}"

    @property
    def _experiment_name(self) -> str:
        return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT

    def _experiment(self) -> str:
        """Return the id of the experiment, which is created if there is none."""
        found = self._client.get_experiment_by_name(self._experiment_name)
        if found is not None:
            return found.experiment_id
        return self._client.create_experiment(self._experiment_name)

    def _find(self, record: Record) -> Any:  # noqa: ANN401  a Run of MLflow, or None
        wanted = f"tags.`{RUN_ID}` = '{record.id}'"
        found = self._client.search_runs([self._experiment()], filter_string=wanted)
        return found[0] if found else None

    def _create(self, record: Record) -> Any:  # noqa: ANN401  a Run of MLflow
        tags = {RUN_ID: record.id}
        return self._client.create_run(self._experiment(), run_name=record.name, tags=tags)

    def _write_parameters(self, record: Record) -> None:
        """Write the recipe and the provenance.

        MLflow does not let parameters change; the value of one that changed is kept as a tag.
        """
        has: dict[str, str] = self._run.data.params
        new: list[Any] = []
        tags = dict(record.provenance)
        for key, value in record.parameters.items():
            text = value[:VALUE_CHARACTERS]
            if key not in has:
                new.append(self._entities.Param(key, text))
            elif has[key] != text:
                tags[f"now.{key}"] = text
        for first in range(0, len(new), 100):  # a server accepts 100 at a time
            self._client.log_batch(self._id, params=new[first : first + 100])
        for key, value in tags.items():
            self._client.set_tag(self._id, key, value[:VALUE_CHARACTERS])

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch that the store does not have yet."""
        now_ms = int(time.time() * 1000)
        new: list[Any] = []
        with _quiet():
            for name, value in metrics.items():
                if (epoch, value) not in self._history(name):
                    new.append(self._entities.Metric(name, value, now_ms, epoch))
                    self._history(name).add((epoch, value))
            if new:
                self._client.log_batch(self._id, metrics=new)

    def _history(self, name: str) -> set[tuple[int, float]]:
        if name not in self._logged:
            history = self._client.get_metric_history(self._id, name)
            self._logged[name] = {(point.step, point.value) for point in history}
        return self._logged[name]

    def log_picture(self, name: str, png: bytes, *, epoch: int) -> None:
        """Write a picture as `NAME.png`, in place of an earlier one of this name."""
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.png"
            path.write_bytes(png)
            self._client.log_artifact(self._id, str(path))

    def close(self, *, finished: bool) -> None:
        """Set the state of the run."""
        with _quiet():
            self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")
