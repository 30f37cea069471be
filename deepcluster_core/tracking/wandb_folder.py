"""Write a run to Weights & Biases: to its server, or offline to a folder for `wandb sync`.

The server is used only by people who have logged in to it; for all others a run is offline.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from deepcluster_core.artifacts.files import write_atomically
from deepcluster_core.tracking.tracker import Record

PROJECT = "deepcluster"
"""The project of all runs, unless WANDB_PROJECT names another."""


def open_tracker(record: Record, place: str) -> "WandbRun":
    """Open a run below the folder `place`, where wandb keeps its files."""
    return WandbRun(record, Path(place))


class WandbRun:
    """A run in Weights & Biases."""

    def __init__(self, record: Record, folder: Path) -> None:
        self._wandb: Any = import_module("wandb")  # its types are incomplete
        self._record = record
        self._folder = folder / "wandb"
        self._list = self._folder / f"deepcluster-{record.id}.json"
        """Digests of what was logged. An offline run cannot be asked for it."""
        self._has: dict[str, str] = {}
        if self._list.is_file():
            self._has = json.loads(self._list.read_text(encoding="utf-8"))
        self._run: Any = None

    @property
    def place(self) -> str:
        """The address of the run, or its folder and how to upload it."""
        if self._run is not None and not self._run.offline:
            return str(self._run.url)
        return f"{self._folder} (offline; `wandb sync` uploads it)"

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch unless they were written before."""
        digest = hashlib.sha256(json.dumps(dict(metrics)).encode()).hexdigest()
        self._log(f"epoch {epoch}", digest, {"epoch": epoch, **metrics})

    def log_picture(self, name: str, png: bytes, *, epoch: int) -> None:
        """Write a picture unless it was written before."""
        digest = hashlib.sha256(png).hexdigest()
        if self._has.get(name) != digest:
            picture = self._wandb.Image(Image.open(io.BytesIO(png)))
            self._log(name, digest, {"epoch": epoch, name: picture})

    def _log(self, name: str, digest: str, values: dict[str, Any]) -> None:
        if self._has.get(name) == digest:
            return
        self._opened().log(values)
        self._has[name] = digest

    def _opened(self) -> Any:  # noqa: ANN401  a Run of wandb
        """Open the run with its first new value, so that tracking again leaves no empty one."""
        if self._run is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                id=self._record.id,
                name=self._record.name,
                dir=str(self._folder.parent),
                resume="allow",
                mode=os.environ.get("WANDB_MODE") or self._usual_mode(),
                config={"recipe": self._record.parameters, "provenance": self._record.provenance},
                settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )
            self._run.define_metric("*", step_metric="epoch")
        return self._run

    def _usual_mode(self) -> str:
        """Return online for people who have logged in. Others would be asked to do so."""
        return "online" if self._wandb.login(prompt=False) else "offline"

    def close(self, *, finished: bool) -> None:
        """Upload or write the rest, and remember what was logged."""
        if self._run is None:
            return
        self._run.finish(exit_code=0 if finished else 1)
        self._run = None
        write_atomically(self._list, json.dumps(self._has).encode())
