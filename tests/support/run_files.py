"""What tests compare of the files of runs."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from deepcluster_core.artifacts.manifest import MANIFEST, Manifest, read_manifest
from stages.runs.epoch import EPOCH_KINDS

MEASURED = ("_s", "_per_s", "_bytes")
"""Endings of the columns of metrics that depend on the machine and the moment."""


def manifests(run: Path) -> dict[str, Manifest]:
    """Return the manifest of every artifact of a run by its folder: `labels/epoch=0001`."""
    return {
        path.parent.relative_to(run).as_posix(): read_manifest(path.parent)
        for path in sorted(run.rglob(MANIFEST))
    }


def made_since(before: dict[str, Manifest], run: Path) -> set[str]:
    """Return the artifacts whose stage ran since `before`."""

    def as_made(manifest: Manifest) -> Manifest:
        # Pruning changes a manifest, but it is not a run of the stage.
        return manifest.model_copy(update={"pruned": False, "checksum": ""})

    changed: set[str] = set()
    for name, manifest in manifests(run).items():
        if name not in before or as_made(manifest) != as_made(before[name]):
            changed.add(name)
    return changed


def contents(folder: Path, *, records: bool = False) -> dict[str, tuple[int, str]]:
    """Return when each file of a run was written, and its digest.

    Locks are left out, and also what Prefect records about a run, unless `records` is set.
    """
    found: dict[str, tuple[int, str]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.endswith(".lock"):
            continue
        if ".prefect" in path.parts and not records:
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder).as_posix()
        found[name] = (path.stat().st_mtime_ns, digest)
    return found


def artifact_contents(run: Path) -> dict[str, tuple[int, str]]:
    """Return `contents` of the artifacts alone, without the files at the top of the run."""
    return {name: found for name, found in contents(run).items() if "/" in name}


def learnt(run: Path) -> dict[str, object]:
    """Return all results of a run: the bytes of files, and the metrics except times and sizes."""
    found: dict[str, object] = {}
    for path in _results(run):
        found[path.relative_to(run).as_posix()] = path.read_bytes()
    # The files of metrics differ from run to run, because they also hold times.
    for table in run.glob("metrics/*/*.parquet"):
        with pq.ParquetFile(table) as file:
            (row,) = file.read().to_pylist()
        scores = {name: value for name, value in row.items() if not name.endswith(MEASURED)}
        found[table.relative_to(run).as_posix()] = scores
    return found


def _results(run: Path) -> Iterator[Path]:
    """Yield the files of all artifacts except metrics."""
    for kind in ("images", *EPOCH_KINDS):
        if kind == "metrics":
            continue
        for path in (run / kind).rglob("*"):
            is_result = path.name != MANIFEST and not path.name.endswith(".lock")
            if path.is_file() and is_result:
                yield path
