"""What this program wrote: run folders, artifacts and tables, known by what is in them.

They may lie among somebody's pictures, and are never taken for pictures. Names alone do not decide:
other programs write a `config.yaml` and a `_manifest.json`, too.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deepcluster_core.artifacts.commit import UNFINISHED
from deepcluster_core.artifacts.manifest import MANIFEST
from deepcluster_core.artifacts.parquet_images import (
    OTHER_COLUMNS,
    USUAL_COLUMNS,
    is_image_type,
)

ABOUT = "deepcluster"
"""Key of the JSON text, in a file's own metadata, that says what it was made with."""
CONFIG, TASK_RESULTS, SWEEP = "config.yaml", ".prefect", "sweep.parquet"
"""Names in the folder of a run, and in that of a sweep."""
KINDS = ("images", "features", "labels", "checkpoints", "metrics")
ARRAY = "zarr.json"
TELLING = frozenset({CONFIG, TASK_RESULTS, SWEEP, MANIFEST, UNFINISHED, ARRAY, *KINDS})
"""Names that tell whether a folder is this program's: one that has none of them is not."""
PICTURES = {"run": ("overview.png",), "sweep": ("sweep.png",)}
"""Pictures that lie in such a folder itself."""

HEAD_BYTES = 1 << 16
_MANIFEST = re.compile(rb'\A\s*\{\s*"format":\s*\d+,\s*"stage":\s*"[\w-]+",\s*"version":\s*\d')
_SECTIONS = ("seed", "epochs", "dataset", "network", "extract", "cluster", "train", "compute")
"""Keys that a run's configuration always has; a recipe that somebody typed seldom has them all."""
_TABLES = (
    {"image_id", "path", "cluster", "distance"},
    {"image_id", "path", "label", "width", "height", "format"},
    {"loss", "nmi_previous", "nmi_labels", "empty_clusters"},
    {"path", "reason"},
)
"""Columns of tables in a run, which say nothing else about where they come from: of labels, images,
metrics and sweeps, skipped images."""
_LAST_OF_RESULTS = ["protocol"]
"""Last column of every evaluation's result."""


def kind_of_folder(folder: Path, names: Collection[str] | None = None) -> str | None:
    """Return what this program keeps in a folder, or None: a run, sweep, artifact or array.

    Args:
        folder: to look into.
        names: those of `TELLING` that lie in it, where that is known already.
    """
    try:
        return _kind(folder, TELLING.intersection(os.listdir(folder)) if names is None else names)  # noqa: PTH208  names alone
    except OSError:  # may not be read: then it is not known, and no picture of it is either
        return None


def is_own_table(path: Path) -> bool:
    """Return whether a Parquet file is a table of this program, not one of images."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return False
    if ABOUT.encode() in (schema.metadata or {}):
        return True
    columns = set(schema.names)
    if any(
        is_image_type(schema.field(name).type)
        for name in {*USUAL_COLUMNS, *OTHER_COLUMNS} & columns
    ):
        return False
    return schema.names[-1:] == _LAST_OF_RESULTS or any(table <= columns for table in _TABLES)


def _kind(folder: Path, names: Collection[str]) -> str | None:
    if MANIFEST in names and _MANIFEST.match(_head(folder / MANIFEST)):
        return "artifact"
    if UNFINISHED in names and (folder / UNFINISHED).stat().st_size == 0:
        return "artifact"
    if CONFIG in names and _is_run(folder, names):
        return "run"
    if SWEEP in names and is_own_table(folder / SWEEP):
        return "sweep"
    if ARRAY in names and f'"{ABOUT}"'.encode() in _head(folder / ARRAY):
        return "array"
    return None


def _is_run(folder: Path, names: Collection[str]) -> bool:
    begun = TASK_RESULTS in names or any(kind in names for kind in KINDS)
    head = b"\n" + _head(folder / CONFIG)
    return begun and all(f"\n{key}:".encode() in head for key in _SECTIONS)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
