"""Recognise run folders, artifacts and tables that this program wrote, by their contents.

They may be stored inside a folder of images and must never be read as images. Names alone are not
enough: other programs write files named `config.yaml` and `_manifest.json` too.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from deepcluster_core.artifacts.commit import UNFINISHED
from deepcluster_core.artifacts.manifest import MANIFEST
from deepcluster_core.artifacts.parquet_images import (
    OTHER_COLUMNS,
    USUAL_COLUMNS,
    is_image_type,
    schema_of,
)
from deepcluster_core.data.contents import DataFile

ABOUT = "deepcluster"
"""Key of the JSON in a file's metadata that describes how the file was made."""
CONFIG, TASK_RESULTS, SWEEP = "config.yaml", ".prefect", "sweep.parquet"
"""Names in the folder of a run or a sweep."""
KINDS = ("images", "features", "labels", "checkpoints", "metrics")
ARRAY = "zarr.json"
TELLING = frozenset({CONFIG, TASK_RESULTS, SWEEP, MANIFEST, UNFINISHED, ARRAY, *KINDS})
"""Names that this program writes; a folder without any of them is not the program's."""
PICTURES = {"run": ("overview.png",), "sweep": ("sweep.png",)}
"""Images that this program writes directly into a folder, by the kind of the folder."""

HEAD_BYTES = 1 << 16
_MANIFEST = re.compile(rb'\A\s*\{\s*"format":\s*\d+,\s*"stage":\s*"[\w-]+",\s*"version":\s*\d')
_SECTIONS = ("seed", "epochs", "dataset", "network", "extract", "cluster", "train", "compute")
"""Keys that a run's configuration always has; recipes written by hand seldom have all of them."""
_TABLES = (
    {"image_id", "path", "cluster", "distance"},
    {"image_id", "path", "label", "width", "height", "format"},
    {"loss", "nmi_previous", "nmi_labels", "empty_clusters"},
    {"path", "reason"},
)
"""Columns by which tables of a run are recognised, because they have no metadata of this program.

In order: labels, images, metrics and sweeps, skipped images.
"""
_LAST_OF_RESULTS = ["protocol"]
"""The last column of every evaluation's result table."""


class Folder(Protocol):
    """A folder of this machine, or one of a store."""

    def __truediv__(self, name: str, /) -> DataFile: ...


def kind_of_folder(folder: Path, names: Collection[str] | None = None) -> str | None:
    """Return "run", "sweep", "artifact" or "array" for a folder of this program, or None.

    Args:
        folder: the folder to inspect.
        names: the names of `TELLING` that are in the folder, if known already.
    """
    try:
        if names is None:
            names = TELLING.intersection(os.listdir(folder))  # noqa: PTH208  names alone
        return kind_among(folder, names)
    except OSError:  # an unreadable folder cannot be recognised, nor can images be read from it
        return None


def is_own_table(path: DataFile) -> bool:
    """Return whether a Parquet file is a table of this program, not one of images."""
    try:
        schema = schema_of(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return False
    metadata = schema.metadata or {}
    if ABOUT.encode() in metadata:
        return True
    # A table with images is never one of this program, even if its other columns are equal.
    for name in (*USUAL_COLUMNS, *OTHER_COLUMNS):
        if name not in schema.names:
            continue
        field = schema.field(name)
        if is_image_type(field.type):
            return False
    if schema.names[-1:] == _LAST_OF_RESULTS:
        return True
    columns = set(schema.names)
    return any(table <= columns for table in _TABLES)


def kind_among(folder: Folder, names: Collection[str]) -> str | None:
    """Return what `kind_of_folder` does for a folder that may be on a store.

    Raises:
        OSError: a file of the folder cannot be read.
    """
    if MANIFEST in names:
        head = _head(folder / MANIFEST)
        if _MANIFEST.match(head):
            return "artifact"
    # The mark of an unfinished artifact is an empty file.
    if UNFINISHED in names:
        status = (folder / UNFINISHED).stat()
        if status.st_size == 0:
            return "artifact"
    if CONFIG in names and _is_run(folder, names):
        return "run"
    if SWEEP in names and is_own_table(folder / SWEEP):
        return "sweep"
    # Zarr stores attributes, and thus the description, in the file of the array.
    about_key = f'"{ABOUT}"'.encode()
    if ARRAY in names and about_key in _head(folder / ARRAY):
        return "array"
    return None


def _is_run(folder: Folder, names: Collection[str]) -> bool:
    has_artifacts = any(kind in names for kind in KINDS)
    if not has_artifacts and TASK_RESULTS not in names:
        return False
    head = b"\n" + _head(folder / CONFIG)
    return all(f"\n{key}:".encode() in head for key in _SECTIONS)


def _head(path: DataFile) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
