"""Artifacts whose files a test has changed on purpose, and committed again."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from deepcluster_core.artifacts.commit import write_manifest
from deepcluster_core.artifacts.file_names import INDEX
from deepcluster_core.artifacts.files import record_files
from deepcluster_core.artifacts.images_writer import INDEX_SCHEMA
from deepcluster_core.artifacts.manifest import digest_of, read_manifest

Relabel = Callable[[Callable[[pd.DataFrame], Sequence[str | None]]], Path]
"""Given the labels as a function of the index, returns the folder of a copy of the images."""


def reseal(folder: Path) -> None:
    """Make the manifest match the files as they are now."""
    manifest = read_manifest(folder)
    files = record_files(folder, [folder / name for name in manifest.files])
    write_manifest(folder, manifest.model_copy(update={"files": files}))


def copy_with_labels(
    images: Path, out: Path, labels: Callable[[pd.DataFrame], Sequence[str | None]]
) -> Path:
    """Copy an images artifact with other labels, and give the copy a digest of its own."""
    shutil.copytree(images, out)
    table = pd.read_parquet(out / INDEX)
    table["label"] = pd.array(list(labels(table)), dtype="string")
    table.to_parquet(out / INDEX, schema=INDEX_SCHEMA)
    reseal(out)
    manifest = read_manifest(out)
    digest = digest_of({name: record.sha256 for name, record in manifest.files.items()})
    write_manifest(out, manifest.model_copy(update={"digest": digest}))
    return out
