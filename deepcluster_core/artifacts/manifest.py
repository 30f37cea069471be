"""`_manifest.json`: what an artifact is, what it was made from, and whether it is still whole.

An artifact is one folder. Its manifest is written last, so a folder without a valid manifest is
not an artifact, whatever else lies in it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from deepcluster_core.config import StrictConfig
from deepcluster_core.errors import ArtifactError

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Stage:
    """The identity of a stage, as far as its artifacts depend on it."""

    name: str
    version: int
    """Raised when the same inputs and configuration would give another artifact."""
    kind: str
    """The folder of its artifacts in a run: `features`, `labels`, …"""
    files: tuple[str, ...]
    """Files and folders of an artifact, besides the manifest."""
    reads: tuple[str, ...]
    """Sections of the recipe that the stage reads; the others do not change its key."""
    glances_at: tuple[str, ...] = ()
    """Inputs of which it reads the manifest only, so their files need not be there."""


class FileRecord(StrictConfig):
    """One file of an artifact, as it was committed."""

    bytes: int
    sha256: str
    mtime_ns: int
    """When size and time are as committed the file is taken as unchanged, else it is hashed."""


class Provenance(StrictConfig):
    """Who made an artifact. Nothing here takes part in a key or a digest."""

    created: str
    code_version: str
    git_commit: str | None
    python: str
    libraries: dict[str, str]
    device: str


class Manifest(StrictConfig):
    """Everything about an artifact but its contents."""

    format: Literal[1] = 1
    stage: str
    version: int
    key: str
    """Digest of stage, version, configuration, seed, epoch and the digests of the inputs."""
    digest: str
    """Digest of the contents; part of the key of every stage that reads the artifact."""
    inputs: dict[str, str]
    config: dict[str, Any]
    seed: int
    epoch: int | None
    rows: int
    """Images; of a checkpoint, the images trained on, with repetitions."""
    bytes: int
    seconds: float
    peak_memory_bytes: int
    """Of the process, in main memory; not the device's."""
    peak_device_bytes: int | None = None
    """Of torch's tensors in the device's own memory; None on a CPU. What faiss takes there is not
    counted."""
    facts: dict[str, Any]
    """What the stage counted on its way, by name."""
    files: dict[str, FileRecord]
    provenance: Provenance
    pruned: bool = False
    """The files were deleted to save space; the digest still stands for them."""


class Condition(StrEnum):
    """What `inspect` finds in an artifact's folder."""

    WHOLE = "whole"
    PRUNED = "pruned"
    MISSING = "missing"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"


def canonical_json(value: object) -> str:
    """Return the one spelling of `value` that digests are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of(value: object) -> str:
    """Return the SHA-256, in hexadecimal, of a value of plain dicts, lists and scalars."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def artifact_key(
    stage: Stage,
    *,
    config: Mapping[str, StrictConfig],
    inputs: Mapping[str, str],
    seed: int,
    epoch: int | None,
) -> str:
    """Return the key that an artifact has when made from these inputs: same key, same artifact.

    Args:
        stage: name and version take part.
        config: the sections of the recipe that the stage reads, by name.
        inputs: digests of the artifacts that it reads, by the name of the argument.
        seed: of the run.
        epoch: None for a stage that runs once.
    """
    return digest_of(
        {
            "stage": [stage.name, stage.version],
            "config": dump_sections(config),
            "inputs": dict(inputs),
            "seed": seed,
            "epoch": epoch,
        }
    )


def dump_sections(config: Mapping[str, StrictConfig]) -> dict[str, Any]:
    """Return sections of a recipe as plain values, as manifests and keys hold them."""
    return {name: section.model_dump(mode="json") for name, section in config.items()}


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a committed artifact, without looking at its files.

    Raises:
        ArtifactError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder}: there is no finished artifact here ({MANIFEST} is missing).\n"
            f"  Fix: run the stage that makes it; `deepcluster show RUN` tells what a run has."
        ) from None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as a manifest of this version of the program.\n"
            f"  Cause: {_first_line(error)}\n"
            f"  Fix:   run the stage again; what lies in the folder is not used."
        ) from error


def inspect(folder: Path) -> tuple[Condition, str]:
    """Return the condition of the artifact in `folder` and, unless it is whole, why in words."""
    if not (folder / MANIFEST).exists():
        if not folder.exists() or not any(folder.iterdir()):
            return Condition.MISSING, "nothing there"
        return Condition.UNFINISHED, f"no {MANIFEST}: its stage did not end"
    try:
        manifest = read_manifest(folder)
    except ArtifactError as error:
        return Condition.DAMAGED, _first_line(error)
    if manifest.pruned:
        return Condition.PRUNED, "deleted to save space; made again when a stage needs it"
    for name, record in manifest.files.items():
        if problem := _problem_of(folder / name, record):
            return Condition.DAMAGED, f"{name}: {problem}"
    return Condition.WHOLE, ""


def _problem_of(path: Path, record: FileRecord) -> str | None:
    try:
        found = path.stat()
    except OSError:
        return "the file is missing"
    if found.st_size != record.bytes:
        return f"{found.st_size} bytes instead of {record.bytes}"
    if found.st_mtime_ns == record.mtime_ns:
        return None
    if _sha256_at(path, found.st_size, found.st_mtime_ns) != record.sha256:
        return "its contents changed since it was committed"
    return None


@lru_cache(maxsize=4096)
def _sha256_at(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
