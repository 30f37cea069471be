"""Small artifacts with which tests try out mirrors and leases."""

from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from deepcluster_core.artifacts.commit import write_manifest
from deepcluster_core.artifacts.files import record_files
from deepcluster_core.artifacts.manifest import Manifest, Provenance, digest_of
from deepcluster_core.artifacts.remote.mirror import Mirror

LARGE = (1 << 20) + 1
"""Bytes of a file that is not hashed whenever it is looked at."""
LABELS = "labels/epoch=0003"
FILES = {
    "labels.parquet": b"labels",
    "features.zarr/zarr.json": b"{}",
    "features.zarr/c/0/0": b"0" * LARGE,
    "features.zarr/c/1/0": b"1" * LARGE,
}
"""The place and the files of an artifact of labels, with two chunks of features."""


def write_artifact(
    folder: Path, files: Mapping[str, bytes], *, key: str = "a key", attempt: str | None = None
) -> None:
    """Write files and a manifest, as a stage does."""
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    records = record_files(folder, [folder / name for name in files])
    manifest = Manifest(
        stage="tests",
        version=1,
        key=key,
        digest=digest_of({name: record.sha256 for name, record in records.items()}),
        inputs={},
        config={},
        seed=0,
        epoch=0,
        rows=1,
        bytes=sum(record.bytes for record in records.values()),
        seconds=0.0,
        peak_memory_bytes=0,
        facts={},
        files=records,
        provenance=Provenance(
            created="", code_version="", git_commit=None, python="", libraries={}, device="cpu"
        ),
        attempt=attempt,
    )
    write_manifest(folder, manifest)


def make_artifact(
    mirror: Mirror, name: str, files: Mapping[str, bytes], *, key: str = "a key"
) -> Path:
    """Make an artifact as a run on an object store makes it; return its local folder."""
    folder = mirror.root / name
    mirror.refresh(folder)
    with mirror.lease(folder):
        mirror.withdraw(folder)
        write_artifact(folder, files, key=key, attempt=uuid4().hex)
        mirror.publish(folder, [*files])
        mirror.commit(folder)
    return folder
