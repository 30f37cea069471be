"""Write a run as event files, which TensorBoard reads. TensorFlow and torch are not needed."""

import struct
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from deepcluster_core.tracking.tracker import Record

SUFFIX = ".deepcluster"
"""Ends the names of our event files, so that we know them among others."""
KEEP_ALL = {"scalars": 0, "images": 0, "tensors": 0}
"""What TensorBoard's reader keeps: 0 stands for everything; its defaults are samples."""
SETTINGS, PROVENANCE = "recipe", "provenance"


def open_tracker(record: Record, place: str) -> "EventFiles":
    """Open the event files of a run: in the folder `place`, in one of the run's name.

    TensorBoard shows each folder below the one that it is started with as a run of its own.
    """
    return EventFiles(record, Path(place) / record.name)


class EventFiles:
    """The event files of a run."""

    def __init__(self, record: Record, folder: Path) -> None:
        self._folder = folder
        self._events: Any = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries: Any = import_module("tensorboard.compat.proto.summary_pb2")
        self._scalars: Any = import_module("tensorboard.plugins.scalar.summary_v2")
        self._texts: Any = import_module("tensorboard.plugins.text.summary_v2")
        self._has: set[tuple[str, int, object]] = set()
        """Tag, step and value of everything that the files of this folder hold."""
        self._read_existing()
        self._writer: Any = None
        self._write_text(SETTINGS, record.parameters)
        self._write_text(PROVENANCE, record.provenance)

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    def _read_existing(self) -> None:
        accumulator = import_module("tensorboard.backend.event_processing.event_accumulator")
        if not any(self._folder.glob(f"events.out.tfevents.*{SUFFIX}")):
            return
        found: Any = accumulator.EventAccumulator(str(self._folder), size_guidance=KEEP_ALL)
        found.Reload()
        tags: dict[str, list[str]] = found.Tags()
        for tag in tags["tensors"]:
            for event in found.Tensors(tag):
                self._has.add((tag, event.step, event.tensor_proto.SerializeToString()))
        for tag in tags["images"]:
            for event in found.Images(tag):
                self._has.add((tag, event.step, event.encoded_image_string))

    def _write_text(self, tag: str, values: Mapping[str, str]) -> None:
        lines = ["| key | value |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in values.items()]
        summary = self._texts.text_pb(tag, "\n".join(lines))
        self._write(tag, 0, summary.value[0].tensor.SerializeToString(), summary)

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch."""
        for name, value in metrics.items():
            summary = self._scalars.scalar_pb(name, np.float32(value))
            self._write(name, epoch, summary.value[0].tensor.SerializeToString(), summary)
        self._flush()

    def log_picture(self, name: str, png: bytes, *, epoch: int) -> None:
        """Write a picture."""
        width, height = struct.unpack(">II", png[16:24])  # of the chunk IHDR, the first of any PNG
        image = self._summaries.Summary.Image(
            height=height, width=width, colorspace=4, encoded_image_string=png
        )
        value = self._summaries.Summary.Value(tag=name, image=image)
        self._write(name, epoch, png, self._summaries.Summary(value=[value]))
        self._flush()

    def _write(self, tag: str, step: int, content: bytes, summary: Any) -> None:  # noqa: ANN401
        """Write a value unless the files hold it already."""
        if (tag, step, content) in self._has:
            return
        self._has.add((tag, step, content))
        # The file is created only now, so that tracking again leaves no empty files.
        if self._writer is None:
            writers = import_module("tensorboard.summary.writer.event_file_writer")
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = writers.EventFileWriter(str(self._folder), filename_suffix=SUFFIX)
        event = self._events.Event(wall_time=time.time(), step=step, summary=summary)
        self._writer.add_event(event)

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
