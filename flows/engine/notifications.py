"""Notify somebody of the end of a run, of a failure, and of warnings.

The URL is no parameter of a flow and no key of a recipe: it can hold a password, and Prefect, logs
and manifests keep those. It comes from the command or from the environment.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.notification import Kind, send
from deepcluster_core.text import (
    counted,
    duration,
    known,
    printable_lines,
    three_decimals,
    without_credentials,
)
from stages.runs.folder import RunFolder
from stages.score import score

NOTIFY = "DEEPCLUSTER_NOTIFY"
"""The environment variable with the URL, for workers and for all who do not want to type it."""
URL: ContextVar[str | None] = ContextVar("URL", default=None)
"""The URL that the command was given."""
LONGEST = 500
"""Characters of an error that are sent."""
FIGURES = {
    "loss": "loss",
    "NMI with the clusters before": "nmi_previous",
    "NMI with the labels": "nmi_labels",
}
"""Columns of the metrics that are sent when a run is finished, by what they are called there."""

log = logging.getLogger(__name__)


def notification_url() -> str | None:
    """Return the URL to notify; None if nobody wants notifications."""
    return URL.get() or os.environ.get(NOTIFY) or None


class RunNotices:
    """Notifications about one run. They are sent while the run waits, for seconds at most."""

    def __init__(self, folder: RunFolder, warn: Callable[[str], None]) -> None:
        """Read the URL that is in force now.

        Args:
            folder: folder of the run.
            warn: called once if a notification cannot be sent.
        """
        self._folder, self._warn = folder, warn
        self._url = notification_url()
        self._start = time.monotonic()
        self._sent: set[str] = set()
        """Warnings so far, without their numbers: each is sent once, not in every epoch."""
        self._failed = False

    def warned(self, text: str) -> None:
        """Send a warning, unless one that differs in its numbers only was sent before."""
        without_numbers = re.sub(r"\d[\d.,]*", "#", text)
        if without_numbers not in self._sent:
            self._sent.add(without_numbers)
            self._send("warning", text, "warning")

    def finished(self, *, epoch: int) -> None:
        """Send that the run is finished, and what its last epoch has learnt."""
        row = read_metrics(self._folder.artifact(score.kind, epoch))
        figures = {name: row[column] for name, column in FIGURES.items()}
        told = [f"{name} {three_decimals(one)}" for name, one in figures.items() if known(one)]
        took = duration(time.monotonic() - self._start)
        lines = [
            f"{counted(epoch + 1, 'epoch')}; {took} since it was started",
            ", ".join(told),
            f"{self._folder.root / 'report.html'}",
        ]
        self._send("finished", "\n".join(lines), "success")

    def _send(self, event: str, text: str, kind: Kind) -> None:
        if self._url is None:
            return
        title = f"DeepCluster {self._folder.name}: {event}"
        is_sent = send(self._url, title, printable_lines(text), kind)
        if not is_sent and not self._failed:
            self._failed = True  # before the warning, which would be sent as well
            self._warn("a notification could not be sent; the run goes on without")


@contextmanager
def telling_failure(name: str) -> Iterator[None]:
    """Send that a part of a sweep that belongs to none of its runs failed, or was stopped."""
    try:
        yield
    except BaseException as error:
        event = "failed" if isinstance(error, Exception) else "stopped"
        _send_failure(name, event, str(error))
        raise


def notify_failure(flow: object, flow_run: Any, state: Any) -> None:  # noqa: ANN401  Prefect's
    """Send that a flow run failed, or was stopped. Prefect calls it in the process of the flow."""
    event = "failed" if state.is_failed() else "stopped"
    _send_failure(flow_run.name, event, state.message or "")


def _send_failure(name: str, event: str, message: str) -> None:
    url = notification_url()
    if url is None:
        return
    text = without_credentials(message[:LONGEST])
    if not send(url, f"DeepCluster {name}: {event}", printable_lines(text), "failure"):
        log.warning("a notification could not be sent")
