"""What Prefect's UI shows of a run beside its tasks: a progress bar, the metrics, its state."""

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
from stages.runs.epoch import STAGES
from stages.runs.folder import RunFolder
from stages.runs.job import Job
from stages.runs.states import states_of

EVERY_S = 5.0
PICTURE_BYTES = 2 << 20
"""Pictures travel as text through Prefect's API and lie in its database."""
STAGES_OF_AN_EPOCH = [name for name in STAGES if name != "index"]


class Ui:
    """Writes Prefect artifacts; usable inside a flow run only."""

    def __init__(self, folder: RunFolder, *, epochs: int) -> None:
        """Write nothing yet."""
        self._folder, self._epochs = folder, epochs
        self._name = _key(folder)
        self._progress_id: UUID | None = None
        self._told = 0.0
        self._rows: dict[int, dict[str, Any]] = {}

    def progress(self, job: Job, share: float) -> None:
        """Move the bar: whole epochs, and the share, 0 to 1, of this stage in its epoch.

        An evaluation is a whole by itself.
        """
        if time.monotonic() - self._told < EVERY_S:
            return
        self._told = time.monotonic()
        if job.stage.name not in STAGES:
            self._set(100 * share)
            return
        stage = STAGES_OF_AN_EPOCH.index(job.stage.name) if job.epoch is not None else 0
        done = (job.epoch or 0) + (stage + share) / len(STAGES_OF_AN_EPOCH)
        self._set(100 * done / self._epochs)

    def update(self, epoch: int) -> None:
        """Show the metrics of all epochs and the state of the run, once `epoch` was made."""
        self._rows.pop(epoch, None)
        for number in self._folder.epochs("metrics"):
            folder = self._folder.artifact("metrics", number)
            if number not in self._rows and inspect(folder)[0] is Condition.WHOLE:
                self._rows[number] = {"epoch": number} | read_metrics(folder)
        rows = [self._rows[number] for number in sorted(self._rows)]
        create_table_artifact(
            key=f"{self._name}-metrics", table=rows, description="Metrics by epoch"
        )
        create_markdown_artifact(key=f"{self._name}-state", markdown=_markdown(self._folder))
        self._set(100 * len(rows) / self._epochs)

    def show_table(self, name: str, rows: list[dict[str, Any]], description: str) -> None:
        """Show a table of the run under a name of its own."""
        create_table_artifact(
            key=f"{self._name}-{dashed(name)}", table=rows, description=description
        )

    def show_picture(self, name: str, png: bytes, description: str) -> None:
        """Show a picture of the run under a name of its own, if it is small enough for it."""
        if len(png) > PICTURE_BYTES:
            return
        url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        key = f"{self._name}-{dashed(name)}"
        create_image_artifact(image_url=url, key=key, description=description)

    def _set(self, percent: float) -> None:
        percent = min(100.0, percent)
        if self._progress_id is None:
            made = create_progress_artifact(
                progress=percent,
                key=f"{self._name}-progress",
                description=f"Run {_plain(self._folder.name)}",
            )
            assert isinstance(made, UUID), "a flow that is not async gets the result itself"
            self._progress_id = made
        else:
            update_progress_artifact(self._progress_id, progress=percent)


def _key(folder: RunFolder) -> str:
    """Return the run's name in lower case letters, digits and dashes, which Prefect takes."""
    root = folder.root.resolve()
    # The runs of a sweep have the same names in every sweep: k=00100.
    name = f"{root.parent.name}-{root.name}" if "=" in root.name else root.name
    return dashed(name) or "run"


def dashed(text: str) -> str:
    """Return text in lower case letters, digits and dashes, as Prefect's keys are."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _plain(text: str) -> str:
    """Return a name as Markdown that shows it as it is: no headings, links or HTML come of it."""
    return re.sub(r"([^\w\s-]|_)", r"\\\1", printable(text))


def _markdown(folder: RunFolder) -> str:
    rows = [
        f"| {state.kind} | {'' if state.epoch is None else state.epoch} | {state.condition} "
        f"| {state.bytes:,} | {state.rows:,} | `{state.key[:12]}` |"
        for state in states_of(folder)
    ]
    head = ["| artifact | epoch | condition | bytes | rows | key |", "|---|---|---|--:|--:|---|"]
    names = [f"# Run {_plain(folder.name)}", "", _plain(str(folder.root.resolve())), ""]
    return "\n".join([*names, *head, *rows])
