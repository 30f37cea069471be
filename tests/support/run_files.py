"""What tests compare of the files of runs."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from deepcluster_core.artifacts.manifest import MANIFEST, Manifest, read_manifest
from stages.runs.folder import EPOCH_KINDS

MEASURED = ("_s", "_per_s", "_bytes")
"""Endings of the columns of metrics that depend on the machine and the moment."""


def manifests(run: Path) -> dict[str, Manifest]:
    """Return the manifest of every artifact of a run by its folder: `labels/epoch=0001`."""
    return {
        path.parent.relative_to(run).as_posix(): read_manifest(path.parent)
        for path in sorted(run.rglob(MANIFEST))
    }


def made_since(before: dict[str, Manifest], run: Path) -> set[str]:
    """Return the artifacts whose stage ran since `before`; deleting to save space is no run."""

    def as_made(manifest: Manifest) -> Manifest:
        return manifest.model_copy(update={"pruned": False, "checksum": ""})

    now = manifests(run)
    return {
        name for name in now if name not in before or as_made(now[name]) != as_made(before[name])
    }


def contents(folder: Path, *, records: bool = False) -> dict[str, tuple[int, str]]:
    """Return when each file of a run was written, and its digest.

    Locks are left out, and unless `records` is set, what Prefect notes about a run.
    """
    found: dict[str, tuple[int, str]] = {}
    for path in sorted(folder.rglob("*")):
        is_record = ".prefect" in path.parts
        if not path.is_file() or path.name.endswith(".lock") or (is_record and not records):
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.relative_to(folder).as_posix()] = (path.stat().st_mtime_ns, digest)
    return found


def artifact_contents(run: Path) -> dict[str, tuple[int, str]]:
    """Return `contents` of the artifacts alone, without the files at the top of the run."""
    return {name: found for name, found in contents(run).items() if "/" in name}


def learnt(run: Path) -> dict[str, object]:
    """Return all that a run computed: its files' bytes, and its metrics but for what they cost."""
    found: dict[str, object] = {
        path.relative_to(run).as_posix(): path.read_bytes() for path in _results(run)
    }
    for table in run.glob("metrics/*/*.parquet"):
        with pq.ParquetFile(table) as file:
            (row,) = file.read().to_pylist()
        scores = {name: value for name, value in row.items() if not name.endswith(MEASURED)}
        found[table.relative_to(run).as_posix()] = scores
    return found


def _results(run: Path) -> Iterator[Path]:
    for kind in ("images", *EPOCH_KINDS):
        for path in (run / kind).rglob("*"):
            if path.is_file() and kind != "metrics" and path.name != "_manifest.json":
                if not path.name.endswith(".lock"):
                    yield path
