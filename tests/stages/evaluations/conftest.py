"""Copies of the images artifact with other labels, for the tests of evaluations."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from deepcluster_core.artifacts.commit import write_manifest
from deepcluster_core.artifacts.file_names import INDEX
from deepcluster_core.artifacts.images import INDEX_SCHEMA
from deepcluster_core.artifacts.manifest import digest_of, read_manifest
from tests.resealed import reseal

Relabel = Callable[[Callable[[pd.DataFrame], Sequence[str | None]]], Path]


@pytest.fixture
def relabelled(images: Path, tmp_path: Path) -> Relabel:
    """Return a function that copies the images and sets their labels by one of the index."""
    made = 0

    def copy(labels: Callable[[pd.DataFrame], Sequence[str | None]]) -> Path:
        nonlocal made
        made += 1
        out = shutil.copytree(images, tmp_path / f"images-{made}")
        table = pd.read_parquet(out / INDEX)
        table["label"] = pd.array(list(labels(table)), dtype="string")
        table.to_parquet(out / INDEX, schema=INDEX_SCHEMA)
        reseal(out)
        manifest = read_manifest(out)
        other = digest_of({name: record.sha256 for name, record in manifest.files.items()})
        write_manifest(out, manifest.model_copy(update={"digest": other}))
        return out

    return copy
