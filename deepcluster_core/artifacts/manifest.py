"""`_manifest.json`: what an artifact is, what it was made from, and whether it is still whole.

An artifact is one folder. Its manifest is written last, so a folder without a valid manifest is
not an artifact, whatever else lies in it.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import from_json

from deepcluster_core.artifacts.files import FileRecord, Signature, signature_of
from deepcluster_core.artifacts.permissions import may_read, why_not_readable
from deepcluster_core.config import StrictConfig
from deepcluster_core.errors import ArtifactError, NewerArtifactError, first_line
from deepcluster_core.shortage import explain_damage

MANIFEST = "_manifest.json"
FORMAT = 1

# A run looks at all of its artifacts after every epoch. What was found out about them is kept here,
# by path, until a file changes, so that an epoch costs the same after 500 others as after 5.
_MANIFESTS: "dict[str, tuple[Signature | None, Manifest]]" = {}
_WHOLE: "dict[str, tuple[Manifest, list[Signature | None]]]" = {}
"""Artifacts that were whole: what was read as their manifest, and the signatures of its files."""
_KEYS: dict[object, str] = {}
"""By everything that takes part in a key."""


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
    checksum: str = ""
    """Digest of everything above: of all files, this one alone has nobody else to vouch for it."""

    @field_validator("files")
    @classmethod
    def _in_the_folder(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:  # a manifest may be anybody's, and what it names is read
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ValueError(f"{name!r} is no file of an artifact")
        return files

    def sealed(self) -> "Manifest":
        """Return the manifest with its checksum."""
        return self.model_copy(update={"checksum": self._digest()})

    def is_intact(self) -> bool:
        """Tell whether nothing has changed since it was sealed."""
        return self.checksum == self._digest()

    def _digest(self) -> str:
        return digest_of(self.model_dump(mode="json", exclude={"checksum"}))


class Condition(StrEnum):
    """What `inspect` finds in an artifact's folder."""

    WHOLE = "whole"
    PRUNED = "pruned"
    MISSING = "missing"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    """Its files are there, but this user may not read them: it may be whole."""


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
    sections = tuple((name, section.model_dump_json()) for name, section in config.items())
    made_from = (stage.name, stage.version, sections, tuple(inputs.items()), seed, epoch)
    if made_from not in _KEYS:
        _KEYS[made_from] = digest_of(
            {
                "stage": [stage.name, stage.version],
                "config": dump_sections(config),
                "inputs": dict(inputs),
                "seed": seed,
                "epoch": epoch,
            }
        )
    return _KEYS[made_from]


def dump_sections(config: Mapping[str, StrictConfig]) -> dict[str, Any]:
    """Return sections of a recipe as plain values, as manifests and keys hold them."""
    dumped: dict[str, Any] = {}
    for name, section in config.items():
        absent = {key for key in section.absent_when_none if getattr(section, key) is None}
        dumped[name] = section.model_dump(mode="json", exclude=absent)
    return dumped


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a committed artifact, without looking at its files.

    It is parsed again only if the file has changed. Callers share it, and must not change it.

    Raises:
        ArtifactError: there is none, or it cannot be read.
        NewerArtifactError: a later version of this program wrote it.
    """
    path = f"{folder}/{MANIFEST}"
    known = _MANIFESTS.get(path)
    if known is not None and known[0] == signature_of(path):
        return known[1]

    def explain(error: Exception) -> ArtifactError:
        if isinstance(error, FileNotFoundError):
            return ArtifactError(
                f"{folder}: there is no finished artifact here ({MANIFEST} is missing).\n"
                f"  Fix: run the stage that makes it; `deepcluster show RUN` tells what a run has."
            )
        return ArtifactError(
            f"{path}: cannot be read as a manifest of this version of the program.\n"
            f"  Cause: {first_line(error)}\n"
            f"  Fix:   run the stage again; what lies in the folder is not used."
        )

    with explain_damage(explain, OSError, ValueError):  # pydantic's error is a ValueError
        known = _MANIFESTS[path] = _parse(Path(path))
        return known[1]


def _parse(path: Path) -> "tuple[Signature | None, Manifest]":
    with path.open("rb") as file:
        seen, data = signature_of(file.fileno()), file.read()
    _refuse_newer(path, data)
    manifest = Manifest.model_validate_json(data)
    if not manifest.is_intact():
        raise ValueError("its checksum differs: it was changed after it was written")
    return seen, manifest


def _refuse_newer(path: Path, data: bytes) -> None:
    found = from_json(data)  # json.loads meets deep brackets with a RecursionError
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise NewerArtifactError(
            f"{path}: is of format {number}, but this version of the program knows {FORMAT}.\n"
            f"  Cause: a later version wrote it; it is left as it is.\n"
            f"  Fix:   update this program, or choose another folder."
        )


def inspect(folder: Path) -> tuple[Condition, str]:
    """Return the condition of the artifact in `folder` and, unless it is whole, why in words."""
    try:
        return _inspected(folder)
    except PermissionError as error:
        place = Path(error.filename) if isinstance(error.filename, str) else folder
        return Condition.UNREADABLE, why_not_readable(place)


def _inspected(folder: Path) -> tuple[Condition, str]:
    """Return the same as `inspect`.

    Raises:
        PermissionError: a file or folder may not be read.
    """
    try:
        manifest = read_manifest(folder)
    except ArtifactError as error:
        if isinstance(error.__cause__, PermissionError):
            raise error.__cause__ from error
        if (folder / MANIFEST).exists():
            return Condition.DAMAGED, first_line(error)
        if not folder.exists() or not any(folder.iterdir()):
            return Condition.MISSING, "nothing there"
        return Condition.UNFINISHED, f"no {MANIFEST}: its stage did not end"
    if manifest.pruned:
        return Condition.PRUNED, "deleted to save space; made again when a stage needs it"
    place = str(folder)
    found = manifest, [signature_of(f"{place}/{name}") for name in manifest.files]
    known = _WHOLE.get(place)
    if known is None or known[0] is not manifest or known[1] != found[1]:
        if problem := next(_problems(folder, manifest), ""):
            return Condition.DAMAGED, problem
        _WHOLE[place] = found
    return Condition.WHOLE, ""


def _problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield in words how the files of an artifact differ from its manifest; raises as above."""
    for name, record in manifest.files.items():
        if problem := record.problem_of(folder / name):
            yield f"{name}: {problem}"
        elif not may_read(folder / name):  # big files are not hashed: nothing has opened them
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / name))


def verify(path: Path) -> None:
    """Check a file of an artifact before it is read, by its digest in the manifest beside it.

    For files that are read as a whole. A folder without a manifest is not looked at: who reads an
    artifact has read its manifest before.

    Raises:
        ArtifactError: the file is not as it was committed.
    """
    if not (path.parent / MANIFEST).exists():
        return
    manifest = read_manifest(path.parent)
    record = manifest.files.get(path.name)
    try:
        problem = record.problem_of(path, hash_always=True) if record else "not in the manifest"
    except PermissionError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}).\n"
            f"  Cause: {why_not_readable(path)}\n"
            f"  Fix:   have its permissions changed."
        ) from error
    if problem:
        epoch = "" if manifest.epoch is None else f" --epoch {manifest.epoch}"
        raise ArtifactError(
            f"{path}: {problem}.\n"
            f"  Fix: make it again: deepcluster stage {manifest.stage} --run …{epoch} --force"
        )
