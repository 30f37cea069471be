"""Take ticked images out: as a table, as a list of paths, or as copies in a new folder."""

import csv
import io
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from deepcluster_core.errors import ConfigError, first_line
from deepcluster_core.text import number
from flows.look.contents import EpochContents, RunContents
from stages.runs.outputs.sorted_images import write_pixels

Form = Literal["csv", "list", "folder"]
COLUMNS = ("image_id", "path", "label", "epoch", "cluster", "name", "distance", "stability")
TABLE = "images.csv"
"""The table that lies beside copied images."""
LONGEST_NAME = 200
"""Bytes of a file's own name that its copy keeps; file systems allow 255 together."""


class Ticked(BaseModel):
    """Images and clusters that a person has ticked, and what to make of them."""

    model_config = ConfigDict(extra="forbid", strict=True)
    form: Form
    images: list[int]
    clusters: list[int]
    folder: str = ""
    """Name of the new folder, if copies are made."""


@dataclass(frozen=True)
class TakeOut:
    """Takes images of a run out; new folders are made in one place alone."""

    run: RunContents
    parent: Path

    def image_ids(self, contents: EpochContents, ticked: Ticked) -> list[int]:
        """Return the ticked images and those of ticked clusters, each once, in order.

        Raises:
            UnknownPageError: the run does not have one of them.
            ConfigError: nothing is ticked.
        """
        is_ticked_N = np.zeros(self.run.images.num_images, np.bool_)
        for cluster in ticked.clusters:
            is_ticked_N[contents.members(cluster)] = True
        for image_id in ticked.images:
            self.run.check_image(image_id)
            is_ticked_N[image_id] = True
        found = np.flatnonzero(is_ticked_N).tolist()
        if not found:
            raise ConfigError("no image is ticked.\n  Fix: tick images or clusters first.")
        return found

    def table(self, contents: EpochContents, image_ids: Sequence[int]) -> str:
        """Return CSV with a row for each image."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        names = contents.names()
        labels, stability_N = contents.labels, contents.stability
        for image_id in image_ids:
            cluster = int(labels.cluster_N[image_id])
            name = names[cluster].name if cluster in names else ""
            distance = f"{labels.distance_N[image_id]:.4f}"
            stability = "" if stability_N is None else f"{stability_N[image_id]:.2f}"
            path, label = self.run.paths[image_id], self.run.class_of(image_id)
            row = (image_id, path, label, contents.epoch, cluster, name, distance, stability)
            writer.writerow(row)
        return text.getvalue()

    def paths(self, image_ids: Sequence[int]) -> str:
        """Return the paths of images, one a line: of the original files where there are such."""
        lines: list[str] = []
        for image_id in image_ids:
            original = self.run.original(image_id)
            lines.append(self.run.paths[image_id] if original is None else str(original))
        return "".join(f"{line}\n" for line in lines)

    def copy(self, contents: EpochContents, image_ids: Sequence[int], name: str) -> str:
        """Copy images into a new folder, with a folder for each cluster; return what was done.

        An image that was no file of its own, or whose file is gone, is written as a PNG of its
        packed size.

        Raises:
            ConfigError: the name is not that of a new folder, or the folder cannot be written.
        """
        folder = self._new_folder(name)
        # The folder appears under its name when it is complete.
        unfinished = folder.with_name(f".{name}-{secrets.token_hex(4)}")
        try:
            unfinished.mkdir()
            num_packed = self._fill(unfinished, contents, image_ids)
            unfinished.rename(folder)
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be written ({first_line(error)}).\n"
                f"  Fix: make room or correct permissions, or start with another --out FOLDER."
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        note = ""
        if num_packed:
            note = f" {number(num_packed)} of them have no file of their own: as packed instead."
        return f"Copied {number(len(image_ids))} images to {folder}.{note}"

    def _fill(self, folder: Path, contents: EpochContents, image_ids: Sequence[int]) -> int:
        """Copy images and write their table; return how many had to be written as packed."""
        num_packed = 0
        for image_id in image_ids:
            cluster = int(contents.labels.cluster_N[image_id])
            num_packed += self._copy_one(image_id, folder / f"cluster-{cluster:04d}")
        text = self.table(contents, image_ids)
        (folder / TABLE).write_text(text, encoding="utf-8", errors="surrogateescape")
        return num_packed

    def _new_folder(self, name: str) -> Path:
        """Return the path of a folder that does not exist yet, whose name a person has given."""
        is_plain = name == PurePosixPath(name).name and "\\" not in name and name.isprintable()
        if not name or not is_plain or name.startswith(".") or name != name.strip():
            raise ConfigError(
                f"folder {name!r}: is not a plain name.\n"
                f"  Fix: give a name without slashes; the folder is made in {self.parent}."
            )
        folder = self.parent / name
        if os.path.lexists(folder):  # a broken link, too
            raise ConfigError(f"{folder}: exists already.\n  Fix: choose another name.")
        return folder

    def _copy_one(self, image_id: int, folder: Path) -> bool:
        """Copy an image; return whether its packed pixels had to be written instead."""
        folder.mkdir(exist_ok=True)
        # The number first, because images in different folders can have equal names.
        own_name = _shortened(PurePosixPath(self.run.paths[image_id]).name)
        original = self.run.original(image_id)
        if original is None:
            stem = f"{image_id:06d}-{PurePosixPath(own_name).stem}"
            write_pixels(self.run.images.verified(image_id), folder / stem)
            return True
        shutil.copyfile(original, folder / f"{image_id:06d}-{own_name}")
        return False


def _shortened(name: str) -> str:
    """Return the end of a file's name, which has its suffix."""
    return name.encode(errors="surrogateescape")[-LONGEST_NAME:].decode(errors="ignore")
