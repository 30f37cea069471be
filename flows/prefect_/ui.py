"""Show more of a run in Prefect's UI than its tasks: a progress bar, the metrics and its state."""

import base64
import re
import time
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from deepcluster_core.artifacts.manifest import Condition, inspect
from deepcluster_core.artifacts.tables import read_metrics
from deepcluster_core.text import printable
from stages.runs.epoch import EPOCH_STAGES, STAGES
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.states import states_of

EVERY_S = 5.0
"""Seconds between two updates of the progress bar."""
PICTURE_BYTES = 2 << 20
"""Largest picture to show. Pictures are sent as text to Prefect's API and kept in its database."""
EPOCHS_SHOWN = 10
"""Number of latest epochs in the tables, which Prefect stores anew after every epoch: with all of
them, the 500th epoch would take half a second longer than the first."""


class Ui:
    """Writer of Prefect's artifacts for a run. Can be used inside a flow run only."""

    def __init__(self, folder: RunFolder, *, epochs: int) -> None:
        self._folder = folder
        self._epochs = epochs
        self._name = _key(folder)
        self._progress_id: UUID | None = None
        self._last_update = 0.0
        self._rows: dict[int, dict[str, Any]] = {}

    def progress(self, job: Job, share: float) -> None:
        """Move the progress bar, unless it was moved only just now.

        The bar counts finished epochs and stages. An evaluation has the bar for itself.

        Args:
            job: the job in progress.
            share: share of the job that is done, 0 to 1.
        """
        if time.monotonic() - self._last_update < EVERY_S:
            return
        self._last_update = time.monotonic()
        if job.stage.name not in STAGES:  # an evaluation
            self._set(100 * share)
            return
        epoch = stage = 0  # index comes before the first epoch
        if job.epoch is not None:
            epoch = job.epoch
            stage = list(EPOCH_STAGES).index(job.stage.name)
        share_of_epoch = (stage + share) / len(EPOCH_STAGES)
        self._set(100 * (epoch + share_of_epoch) / self._epochs)

    def update(self, epoch: int) -> None:
        """Show the metrics and the state of the latest epochs after `epoch` was made."""
        # Read again only the metrics that can have changed.
        self._rows.pop(epoch, None)
        # A longer run before, or an update of this one, can have left later epochs.
        epochs = [number for number in self._folder.epochs("metrics") if number <= epoch]
        shown = epochs[-EPOCHS_SHOWN:]
        for number in shown:
            if number in self._rows:
                continue
            folder = self._folder.artifact("metrics", number)
            condition, _ = inspect(folder)
            if condition is Condition.WHOLE:
                self._rows[number] = {"epoch": number} | read_metrics(folder)
        rows = [self._rows[number] for number in shown if number in self._rows]
        description = f"Metrics of the latest {len(rows)} epochs; report.html has all of them"
        create_table_artifact(key=f"{self._name}-metrics", table=rows, description=description)
        markdown = _markdown(self._folder, first=shown[0] if shown else 0, last=epoch)
        create_markdown_artifact(key=f"{self._name}-state", markdown=markdown)
        self._set(100 * (epoch + 1) / self._epochs)

    def show_table(self, name: str, rows: list[dict[str, Any]], description: str) -> None:
        """Show a table of the run under a name of its own."""
        key = f"{self._name}-{dashed(name)}"
        create_table_artifact(key=key, table=rows, description=description)

    def show_picture(self, name: str, png: bytes, description: str) -> None:
        """Show a picture of the run under a name of its own, unless it is too large."""
        if len(png) > PICTURE_BYTES:
            return
        as_text = base64.b64encode(png).decode()
        url = f"data:image/png;base64,{as_text}"
        key = f"{self._name}-{dashed(name)}"
        create_image_artifact(image_url=url, key=key, description=description)

    def _set(self, percent: float) -> None:
        """Move the progress bar, and create it first if there is none."""
        percent = min(100.0, percent)
        if self._progress_id is not None:
            update_progress_artifact(self._progress_id, progress=percent)
            return
        key = f"{self._name}-progress"
        title = f"Run {_plain(self._folder.name)}"
        created = create_progress_artifact(progress=percent, key=key, description=title)
        assert isinstance(created, UUID), "a flow that is not async gets the result itself"
        self._progress_id = created


def _key(folder: RunFolder) -> str:
    """Return the name of a run as a key that Prefect accepts."""
    root = folder.root.resolve()
    name = root.name
    # The runs of every sweep have the same names, such as k=00100: add the name of the sweep.
    if "=" in name:
        name = f"{root.parent.name}-{name}"
    return dashed(name) or "run"


def dashed(text: str) -> str:
    """Return text as lower-case letters, digits and dashes, which Prefect's keys consist of."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _plain(text: str) -> str:
    """Return a name escaped for Markdown, so that it makes no headings, links or HTML."""
    return re.sub(r"([^\w\s-]|_)", r"\\\1", printable(text))


def _markdown(folder: RunFolder, *, first: int, last: int) -> str:
    """Return the state of the artifacts of these epochs, and of the images, as Markdown."""
    path = folder.root.resolve()
    lines = [
        f"# Run {_plain(folder.name)}",
        "",
        _plain(str(path)),
        "",
        "| artifact | epoch | condition | bytes | rows | key |",
        "|---|---|---|--:|--:|---|",
    ]
    for state in states_of(folder, since=first):
        if state.epoch is not None and state.epoch > last:
            continue
        epoch = "" if state.epoch is None else state.epoch  # the images have none
        lines.append(
            f"| {state.kind} | {epoch} | {state.condition} "
            f"| {state.bytes:,} | {state.rows:,} | `{state.key[:12]}` |"
        )
    return "\n".join(lines)
